//! The outbox's file: where it may be, who holds it, and what is done with one that cannot be used.
//! Used by the durable store when it opens, and by `herald outbox`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where the file is when no flag says so: on the pod's emptyDir, as the peer's Deployment mounts it.
pub const DEFAULT_PATH: &str = "/tmp/herald/outbox.db";

/// The file a flag means: with a cluster the default one, without a cluster none; an empty path is
/// the outbox in memory.
pub fn path_of(flag: Option<&Path>, with_cluster: bool) -> Option<PathBuf> {
    let chosen = flag.or_else(|| with_cluster.then(|| Path::new(DEFAULT_PATH)));
    chosen.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned)
}

/// File systems on which two parties do not see one memory and one lock, by the magic number of
/// `statfs(2)`: SQLite's write-ahead log does not work there (sqlite.org/wal.html, "all processes
/// must be on the same host computer").
const NETWORK: [(u64, &str); 10] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
];

/// The folder of the file, made if it must be, readable by nobody else; an error when it is on a
/// network file system.
pub fn prepare(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("--outbox-path: cannot make the folder {}", dir.display()))?;
    let kind = rustix::fs::statfs(dir).context("--outbox-path: cannot ask what file system it is on")?.f_type;
    refuse_network(kind as u64, dir)?;
    // SQLite gives its other files the mode of this one.
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    open.with_context(|| format!("--outbox-path: cannot write {}", path.display()))?;
    Ok(())
}

fn refuse_network(kind: u64, dir: &Path) -> anyhow::Result<()> {
    match NETWORK.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => bail!(
            "--outbox-path: {} is on {name}, and the outbox's write-ahead log does not work on a network file \
             system; give a path on a local disk or an emptyDir, or --outbox-path= to keep the outbox in memory",
            dir.display()
        ),
        None => Ok(()),
    }
}

/// Held while the process uses the file; the operating system lets go of it when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// Another process has it; the error names that one.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        let mut file = open_lock(path).with_context(|| format!("--outbox-path: cannot lock {}", path.display()))?;
        if let Err(error) = file.try_lock() {
            let mut holder = String::new();
            let _ = file.take(200).read_to_string(&mut holder);
            let holder = if holder.is_empty() { "another process".to_owned() } else { holder.trim().to_owned() };
            bail!("--outbox-path: {} is in use by {holder} ({error}); give this one a path of its own", path.display());
        }
        file.set_len(0)?;
        file.rewind()?;
        let host = rustix::system::uname();
        write!(file, "process {} on {}", std::process::id(), host.nodename().to_string_lossy())?;
        Ok(Self { file })
    }
}

impl Lock {
    /// Takes it once more where its file was removed or replaced.
    ///
    /// # Errors
    /// Another process has it by now; the error names that one.
    pub fn take_again(&mut self, path: &Path) -> anyhow::Result<()> {
        let ours = self.file.metadata()?;
        let there = fs::metadata(beside(path, ".lock")).ok();
        if there.is_none_or(|there| (there.dev(), there.ino()) != (ours.dev(), ours.ino())) {
            *self = Self::take(path)?;
        }
        Ok(())
    }
}

/// Whether some process uses the file.
///
/// # Errors
/// The lock beside it cannot be opened.
pub fn is_in_use(path: &Path) -> io::Result<bool> {
    match open_lock(path)?.try_lock() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(beside(path, ".lock"))
}

/// The path with something after its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The outbox's file, its log, the log's index and the lock as they stand at a path: device and inode of each. Another
/// answer than before means that somebody removed or replaced one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity([Option<(u64, u64)>; 4]);

impl Identity {
    /// As of now.
    pub fn of(path: &Path) -> Self {
        let of = |suffix| fs::metadata(beside(path, suffix)).ok().map(|found| (found.dev(), found.ino()));
        Self(["", "-wal", "-shm", ".lock"].map(of))
    }
}

/// Bytes of the file and its log.
pub fn size(path: &Path) -> u64 {
    ["", "-wal"].into_iter().filter_map(|suffix| fs::metadata(beside(path, suffix)).ok()).map(|found| found.len()).sum()
}

/// Room that is given up when the disk is full, so that a smaller file can be made of what waits.
const RESERVE: u64 = 1 << 20;

/// Takes the reserve beside the file, where the disk has room for it.
pub fn keep_reserve(path: &Path) {
    let path = beside(path, ".reserve");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let taken = open.and_then(|file| {
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, RESERVE).map_err(io::Error::from)
    });
    if taken.is_err() {
        let _ = fs::remove_file(path);
    }
}

/// Gives the reserve up.
pub fn release_reserve(path: &Path) {
    let _ = fs::remove_file(beside(path, ".reserve"));
}

/// Where a smaller file is made.
pub fn fresh(path: &Path) -> PathBuf {
    beside(path, ".fresh")
}

/// Puts the fresh file in the place of the old one. The log goes first: the old log must never be read with the
/// fresh file. [`finish_fresh`] goes on where a crash interrupts this.
pub fn put_fresh(path: &Path) -> io::Result<()> {
    File::open(fresh(path))?.sync_all()?;
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(fresh(path), path)
}

/// Deals with a fresh file that an earlier process left. It is complete when the old file's log is gone
/// ([`put_fresh`]); else the old file is.
pub fn finish_fresh(path: &Path) -> io::Result<()> {
    let fresh = fresh(path);
    match (fresh.exists(), beside(path, "-wal").exists()) {
        (false, _) => Ok(()),
        (true, true) => fs::remove_file(fresh),
        (true, false) => fs::rename(fresh, path),
    }
}

/// Moves a file that cannot be used out of the way, for people to look at; where it is then. Only the
/// last one is kept: a disk that spoils files must not be filled with them. An empty one is removed
/// (`None`): it must not take the place of one that people want to look at.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let aside = (fs::metadata(path)?.len() > 0).then(|| beside(path, ".unusable"));
    for suffix in ["", "-wal", "-shm"] {
        let moved = match &aside {
            Some(aside) => fs::rename(beside(path, suffix), beside(aside, suffix)),
            None => fs::remove_file(beside(path, suffix)),
        };
        match moved {
            Err(error) if suffix.is_empty() || error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_a_flag_means() {
        let path = |flag, cluster| path_of(flag, cluster).map(|path| path.display().to_string());
        assert_eq!(path(None, true).as_deref(), Some(DEFAULT_PATH));
        assert_eq!(path(None, false), None);
        assert_eq!(path(Some(Path::new("")), true), None);
        assert_eq!(path(Some(Path::new("/x/y.db")), false).as_deref(), Some("/x/y.db"));
    }

    #[test]
    fn a_network_file_system_is_refused_in_words() {
        let error = refuse_network(0x6969, Path::new("/data")).expect_err("NFS").to_string();
        assert!(error.contains("/data is on NFS") && error.contains("emptyDir"), "{error}");
        refuse_network(0xEF53, Path::new("/data")).expect("ext4 is fine");
    }

    #[test]
    fn an_empty_file_takes_no_place_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("outbox.db");
        let aside = |text: &str| {
            fs::write(&path, text).expect("it is written");
            set_aside(&path).expect("it works")
        };
        let first = aside("jobs").expect("there is something in it");
        assert_eq!(aside(""), None);
        assert_eq!(fs::read_to_string(first).expect("it is there"), "jobs");
    }

    #[test]
    fn a_fresh_file_takes_the_place_of_one_whose_log_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("outbox.db");
        let write = |path: PathBuf, text: &str| fs::write(path, text).expect("it is written");
        for (log, expected) in [(true, "old"), (false, "fresh")] {
            write(path.clone(), "old");
            write(fresh(&path), "fresh");
            if log {
                write(beside(&path, "-wal"), "log");
            }
            finish_fresh(&path).expect("it works");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), expected);
            assert!(!fresh(&path).exists());
            let _ = fs::remove_file(beside(&path, "-wal"));
        }
    }

    #[test]
    fn the_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("outbox.db");
        let first = Lock::take(&path).expect("free");
        let error = Lock::take(&path).expect_err("held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(is_in_use(&path).expect("known"));
        drop(first);
        assert!(!is_in_use(&path).expect("known"));
        Lock::take(&path).expect("free again");
    }
}
