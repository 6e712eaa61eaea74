//! An HTTP/1 server in which everything is bounded, for Herald's three ports. Called by the events door, and by `app` for
//! probes and metrics.
//!
//! Nobody can shut the others out by saying nothing: when as many connections are open as may be, the one that was heard
//! from longest ago gives way to the next. Only one whose request arrived whole, and which waits for its answer, never does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::Spell;
use crate::clock::Clock;

/// How much a server bears.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The `logger` of its lines.
    pub logger: &'static str,
    /// Connections open at once.
    pub connections: usize,
    /// How long a head may take to arrive, and how long an idle connection stays open.
    pub head: Duration,
    /// Bytes read ahead on a connection. A head that is not whole within them is answered 431, but one that arrives at a
    /// stroke can be larger; 8 KiB is the least.
    pub buffer: usize,
}

/// Serves until `stop` resolves, then finishes what is open. `answer` must not take for ever.
pub async fn serve<F, A, B>(
    listener: TcpListener,
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    answer: F,
    stop: impl Future<Output = ()>,
) where
    F: Fn(Request<Arriving>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<B>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connections = Arc::new(Connections::new(bounds, clock));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, connections.enter().await))
        };
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(logger = bounds.logger, %error, "cannot accept a connection");
                // Out of file descriptors, most likely; they come back as others close.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (answer, asker) = (answer.clone(), place.0.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let peer = asker.clone();
            let answered = answer(request.map(|body| Arriving::new(body, peer.clone())));
            async move {
                let answer = answered.await;
                peer.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        // 100 headers, as many as hyper has room for without asking the heap for each request.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head)
            .max_buf_size(bounds.buffer)
            .serve_connection(TokioIo::new(Heard { stream, peer: place.0.clone() }), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                // An answer that is ready is written first.
                biased;
                // A connection's own troubles are the client's.
                _ = connection => {}
                () = place.0.gives_way.notified() => {}
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The connections of one server.
struct Connections {
    logger: &'static str,
    most: usize,
    spell: Spell,
    /// Grows whenever anything is heard; who has the least number was heard from longest ago.
    turns: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Peer>>>,
    /// There may be room for one more.
    room: Notify,
}

/// One of them.
struct Peer {
    id: u64,
    heard: AtomicU64,
    /// Its request arrived whole and is not answered.
    waits: AtomicBool,
    gives_way: Notify,
    among: Arc<Connections>,
}

impl Connections {
    fn new(bounds: Bounds, clock: Arc<dyn Clock>) -> Self {
        let Bounds { logger, connections: most, .. } = bounds;
        let spell = Spell::new(clock);
        Self { logger, most, spell, turns: AtomicU64::new(0), open: Mutex::default(), room: Notify::new() }
    }

    /// A place for one more, which another may have to leave; waits while all others are owed an answer.
    async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            self.room.notified().await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock();
        if open.len() >= self.most {
            let quiet = open.values().filter(|peer| !peer.waits.load(Ordering::Relaxed));
            let id = quiet.min_by_key(|peer| peer.heard.load(Ordering::Relaxed))?.id;
            open.remove(&id)?.gives_way.notify_one();
            if self.spell.begins() {
                let most = self.most;
                tracing::warn!(
                    logger = self.logger,
                    most,
                    "as many connections as may be; the longest silent gives way"
                );
            }
        }
        let id = self.turn();
        let (heard, waits, gives_way) = (AtomicU64::new(id), AtomicBool::new(false), Notify::new());
        let peer = Arc::new(Peer { id, heard, waits, gives_way, among: self.clone() });
        open.insert(id, peer.clone());
        Some(Place(peer))
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }
}

impl Peer {
    fn heard(&self) {
        self.heard.store(self.among.turn(), Ordering::Relaxed);
    }

    fn answered(&self) {
        self.heard();
        self.waits.store(false, Ordering::Relaxed);
        self.among.room.notify_one();
    }
}

/// A connection's place, which it leaves however it ends.
struct Place(Arc<Peer>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.among.open.lock().remove(&self.0.id);
        self.0.among.room.notify_one();
    }
}

/// A body, which tells when it is whole.
pub struct Arriving {
    body: Incoming,
    peer: Arc<Peer>,
}

impl Arriving {
    fn new(body: Incoming, peer: Arc<Peer>) -> Self {
        let arriving = Self { body, peer };
        arriving.look();
        arriving
    }

    fn look(&self) {
        if self.body.is_end_stream() {
            self.peer.waits.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            // In chunks, only this is the end.
            Poll::Ready(None) => self.peer.waits.store(true, Ordering::Relaxed),
            Poll::Ready(Some(_)) => self.look(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that remembers when it was heard from.
struct Heard<S> {
    stream: S,
    peer: Arc<Peer>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.peer.heard();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::clock::SystemClock;

    const WHOLE: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";

    /// What ends when it is long past the limit of any test.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), what).await.expect("in time")
    }

    /// A server whose requests, each read whole, are answered by the test.
    async fn server(connections: usize, head: Duration) -> (SocketAddr, mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (asked, requests) = mpsc::unbounded_channel();
        let answer = move |request: Request<Arriving>| {
            let asked = asked.clone();
            async move {
                let _ = request.into_body().collect().await;
                let (answer, answered) = oneshot::channel();
                let _ = asked.send(answer);
                let _ = answered.await;
                Response::new(Empty::<Bytes>::new())
            }
        };
        let bounds = Bounds { logger: "test", connections, head, buffer: 8 << 10 };
        tokio::spawn(serve(listener, bounds, Arc::new(SystemClock), answer, std::future::pending()));
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
    async fn who_waits_for_an_answer_gives_way_to_nobody() {
        let (at, mut requests) = server(3, Duration::from_secs(60)).await;
        let mut first = wire(at, WHOLE).await;
        let to_first = soon(requests.recv()).await.expect("the first");
        let mut half =
            wire(at, b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{").await;
        assert_eq!(status(&mut half).await, "HTTP/1.1 100");
        soon(half.read_exact(&mut [0; 13])).await.expect("the end of that line, and an empty one");
        let idle = wire(at, b"").await;

        // Two more: they take the places of those that did not bring a whole request, the longest silent first.
        let mut second = wire(at, WHOLE).await;
        let to_second = soon(requests.recv()).await.expect("the second");
        closed(half).await;
        let mut third = wire(at, WHOLE).await;
        let to_third = soon(requests.recv()).await.expect("the third");
        closed(idle).await;

        // None is left to give way: the next waits until one was answered.
        let mut fourth = wire(at, WHOLE).await;
        let early = tokio::time::timeout(Duration::from_millis(100), requests.recv()).await;
        assert!(early.is_err(), "there is no room");
        to_second.send(()).expect("it is waited for");
        assert_eq!(status(&mut second).await, "HTTP/1.1 200");
        soon(requests.recv()).await.expect("the fourth").send(()).expect("it is waited for");
        assert_eq!(status(&mut fourth).await, "HTTP/1.1 200");
        for (answer, wire) in [(to_first, &mut first), (to_third, &mut third)] {
            answer.send(()).expect("it is waited for");
            assert_eq!(status(wire).await, "HTTP/1.1 200");
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_arrive_ends_the_connection() {
        let (at, mut requests) = server(3, Duration::from_millis(100)).await;
        let silent = wire(at, b"").await;
        let half = wire(at, b"POST / HTTP/1.1\r\nHost: ").await;
        closed(silent).await;
        closed(half).await;
        let mut kept = wire(at, WHOLE).await;
        soon(requests.recv()).await.expect("a request").send(()).expect("it is waited for");
        assert_eq!(status(&mut kept).await, "HTTP/1.1 200");
        let mut rest = Vec::new();
        soon(kept.read_to_end(&mut rest)).await.expect("idle connections are closed in order");
    }
}
