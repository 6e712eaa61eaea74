//! A simulated Git host to try things against by hand: `cargo run --example forge`, then open the page it names.
//!
//! It speaks GitHub's and Gitea's commit-status APIs on loopback. Any repository, any commit and any token are
//! fine; point a Provider at `http://127.0.0.1:3080/<owner>/<name>` and watch the statuses arrive. State is in
//! memory and bounded: the newest 10,000 commits are kept.
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

#[expect(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/support/forge/mod.rs"]
mod forge;

use anyhow::Context;
use clap::Parser;
use forge::Forge;
use tokio::sync::broadcast::error::RecvError;

/// A simulated Git host: GitHub's and Gitea's commit-status APIs, and a page that shows what was written.
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

    println!("page    {}/", forge.url());
    println!("github  {0}/api/v3/repos/<owner>/<name>/…   (Provider address {0}/<owner>/<name>)", forge.url());
    println!("gitea   {0}/api/v1/repos/<owner>/<name>/…   (Provider address {0}/<owner>/<name>)", forge.url());
    println!("hook    {}/hook", forge.url());
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
