//! Finds the folder with the built servers, building it when it is not there.
//! Called by the modules that start one of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What `hack/assets.sh` built: `etcd`, `kube-apiserver`, `kubectl`,
/// `kustomize-controller`, `gitea`, `gitea-static/` and `crds/`.
///
/// `HERALD_ASSETS` names the folder directly; without it the script is asked,
/// which takes minutes on the first run and nothing worth mentioning later.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::var_os("HERALD_ASSETS").map_or_else(build, PathBuf::from);
        assert!(
            dir.join("kube-apiserver").exists(),
            "there are no test servers in {}; unset HERALD_ASSETS or run `make assets`",
            dir.display()
        );
        dir
    })
}

fn build() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/assets.sh");
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", script.display()));
    assert!(output.status.success(), "the test servers could not be built; run `make assets` and read what it says");
    let stdout = String::from_utf8(output.stdout).expect("the script prints text");
    PathBuf::from(stdout.lines().last().expect("the script prints a folder"))
}
