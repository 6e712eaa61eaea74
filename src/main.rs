//! The program: flags, then run, then an exit code.

#![deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::process::ExitCode;

use clap::Parser;
use herald::app::{App, Source};
use herald::cli::{Cli, Command};
use herald::cluster::Connection;
use herald::ops::logging;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // As the peer: a value it cannot use, such as an unknown feature gate, is exit code 1.
            let wrong_value = error.kind() == clap::error::ErrorKind::ValueValidation;
            return ExitCode::from(if wrong_value { 1 } else { u8::try_from(error.exit_code()).unwrap_or(2) });
        }
    };
    let Ok(_rest) = logging::init(cli.log_level, cli.log_encoding) else { return ExitCode::FAILURE };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(logger = "setup", error = %format!("{error:#}"), "Herald cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Crds { dir }) = &cli.command {
        return herald::api::crd::print(dir.as_deref());
    }
    if let Some(Command::Outbox(command)) = &cli.command {
        return herald::operate::run(command, cli.outbox_path.as_deref(), &herald::clock::SystemClock);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let source = match &cli.manifests {
            Some(dir) => Source::Manifests(dir.clone()),
            None => Source::Cluster(Connection::open().await?),
        };
        let mut app = App::start(&cli, source).await?;
        let failed = tokio::select! {
            () = herald::app::asked_to_stop() => None,
            error = app.failed() => Some(error),
        };
        app.shutdown(cli.shutdown_grace).await;
        failed.map_or(Ok(()), Err)
    })
}
