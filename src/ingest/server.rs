//! Serves an axum [`Router`] with bounds, which `axum::serve` does not have: how many connections are open, and how long
//! one may be silent. Called by the events server, and by `app` for probes and metrics.
//!
//! A connection that is silent for longer than the time-out ends. When all connections are in use, the next one waits in
//! the kernel's queue until one ends: silent ones keep a sender out for no longer than the time-out.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::LogThrottle;
use crate::clock::Clock;

/// Limits of one server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The `logger` of its log lines.
    pub logger: &'static str,
    /// Connections open at once.
    pub connections: usize,
    /// How long a head may take to arrive, an idle connection stays open, and an answer stays unread.
    pub silence: Duration,
    /// Bytes read ahead on a connection. A head that is not whole within them is answered 431, but one that arrives in a
    /// single read can be larger. At least 8 KiB.
    pub buffer: usize,
}

/// Serves until `stop` resolves, then finishes the requests that have begun. A handler must bound the time of a body.
pub async fn serve(
    listener: TcpListener,
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let full = LogThrottle::new(clock);
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    // 100 headers, as many as hyper has room for without asking the heap for each request.
    http.timer(TokioTimer::new()).header_read_timeout(bounds.silence).max_buf_size(bounds.buffer);
    let mut stop = pin!(stop);
    loop {
        let accepted = async { (permit(&permits, &full, bounds).await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(logger = bounds.logger, %error, "cannot accept a connection");
                // Out of file descriptors, most likely; they come back as others close.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        // hyper has no time-out for an answer that the client does not read.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.silence));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            // An error of a connection is its client's.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Waits until there is room for one more connection.
async fn permit(permits: &Arc<Semaphore>, full: &LogThrottle, bounds: Bounds) -> OwnedSemaphorePermit {
    if permits.available_permits() == 0 && full.is_due() {
        let most = bounds.connections;
        tracing::warn!(logger = bounds.logger, most, "all connections are in use; the next one waits until one ends");
    }
    permits.clone().acquire_owned().await.expect("never closed")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::extract::State;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::clock::SystemClock;

    const WHOLE: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";

    /// Fails what takes much longer than any step of a test.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.expect("in time")
    }

    /// A server whose requests are answered by the test.
    async fn server(
        connections: usize,
        silence: Duration,
    ) -> (SocketAddr, mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (asked, requests) = mpsc::unbounded_channel();
        let answer = async |State(asked): State<mpsc::UnboundedSender<oneshot::Sender<()>>>, _body: String| {
            let (answer, answered) = oneshot::channel();
            let _ = asked.send(answer);
            let _ = answered.await;
        };
        let router = Router::new().fallback(answer).with_state(asked);
        let bounds = Bounds { logger: "test", connections, silence, buffer: 8 << 10 };
        tokio::spawn(serve(listener, bounds, Arc::new(SystemClock), router, std::future::pending()));
        (at, requests)
    }

    async fn wire(at: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut wire = TcpStream::connect(at).await.expect("it listens");
        wire.write_all(bytes).await.expect("it reads");
        wire
    }

    async fn status(wire: &mut TcpStream) -> String {
        let mut line = [0; 12];
        soon(wire.read_exact(&mut line)).await.expect("an answer");
        String::from_utf8_lossy(&line).into_owned()
    }

    async fn closed(mut wire: TcpStream) {
        let mut rest = Vec::new();
        let _ = soon(wire.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn connections_past_the_bound_wait_until_one_ends() {
        let (at, mut requests) = server(2, Duration::from_secs(60)).await;
        let mut first = wire(at, WHOLE).await;
        let to_first = soon(requests.recv()).await.expect("the first");
        let _second = wire(at, WHOLE).await;
        let _to_second = soon(requests.recv()).await.expect("the second");
        let mut third = wire(at, WHOLE).await;
        let early = tokio::time::timeout(Duration::from_millis(100), requests.recv()).await;
        assert!(early.is_err(), "there is no room");
        to_first.send(()).expect("it is waited for");
        assert_eq!(status(&mut first).await, "HTTP/1.1 200");
        drop(first);
        soon(requests.recv()).await.expect("the third").send(()).expect("it is waited for");
        assert_eq!(status(&mut third).await, "HTTP/1.1 200");
    }

    #[tokio::test]
    async fn silent_connections_end_at_the_time_out_and_the_next_is_served() {
        let (at, mut requests) = server(2, Duration::from_millis(100)).await;
        let silent = wire(at, b"").await;
        let half = wire(at, b"POST / HTTP/1.1\r\nHost: ").await;
        let mut third = wire(at, WHOLE).await;
        closed(silent).await;
        closed(half).await;
        soon(requests.recv()).await.expect("a request").send(()).expect("it is waited for");
        assert_eq!(status(&mut third).await, "HTTP/1.1 200");
        let mut rest = Vec::new();
        soon(third.read_to_end(&mut rest)).await.expect("an idle connection is closed in order");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        // More than the kernel keeps for a socket.
        let router = Router::new().fallback(async || vec![0_u8; 64 << 20]);
        let bounds = Bounds { logger: "test", connections: 1, silence: Duration::from_millis(300), buffer: 8 << 10 };
        tokio::spawn(serve(listener, bounds, Arc::new(SystemClock), router, std::future::pending()));
        let _deaf = wire(at, WHOLE).await;
        let mut next = wire(at, WHOLE).await;
        assert_eq!(status(&mut next).await, "HTTP/1.1 200");
    }
}
