//! A simulated Git host to try things against by hand: `cargo run --example forge`, then open the page it names.
//!
//! It speaks six commit-status APIs on loopback: GitHub's, Gitea's, GitLab's, those of Bitbucket Cloud and Data Center,
//! and Azure DevOps'. Any repository, any commit and any token are fine; point a Provider at the address that is
//! printed for its type and watch the statuses arrive. State is in memory and bounded: the newest 10,000 commits are
//! kept.
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

#[expect(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/support/forge/mod.rs"]
mod forge;

use anyhow::Context;
use clap::Parser;
use forge::Forge;
use tokio::sync::broadcast::error::RecvError;

/// What a Provider of each type is pointed at.
const ADDRESSES: [(&str, &str); 5] = [
    ("github", "<owner>/<name>"),
    ("gitea", "<owner>/<name>"),
    ("gitlab", "<group>/<name>"),
    ("bitbucketserver", "scm/<project>/<name>.git"),
    ("azuredevops", "<organization>/<project>/_git/<name>"),
];

/// A simulated Git host: six commit-status APIs, and a page that shows what was written.
#[derive(Parser)]
struct Flags {
    /// Where to listen. Keep it on loopback: there is no protection of any kind.
    #[arg(long, default_value = "127.0.0.1:3080")]
    addr: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let forge = Forge::start(&flags.addr).await.with_context(|| {
        format!("cannot listen on {}; is another forge running? Try --addr 127.0.0.1:0", flags.addr)
    })?;
    let mut news = forge.subscribe();

    let url = forge.url();
    println!("page   {url}/");
    println!("hook   {url}/hook\n");
    println!("type             Provider address");
    for (kind, path) in ADDRESSES {
        println!("{kind:16} {url}/{path}");
    }
    // Its address is always https://bitbucket.org/…; what counts is the environment of whoever calls.
    println!("bitbucket        any; set BITBUCKET_API_BASE_URL={url}/2.0");
    // Any App and any ServiceAccount is good, as any token is.
    println!("GitHub App       tokens are given out beside its API");
    println!("Azure identity   set AZURE_AUTHORITY_HOST={url}\n");
    println!("Ctrl-C stops it.\n");
    loop {
        tokio::select! {
            status = news.recv() => match status {
                Ok(status) => println!("{status}"),
                Err(RecvError::Lagged(missed)) => println!("… {missed} more"),
                Err(RecvError::Closed) => return Ok(()),
            },
            stop = tokio::signal::ctrl_c() => return Ok(stop?),
        }
    }
}
