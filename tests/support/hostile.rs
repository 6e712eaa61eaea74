//! Servers of a tenant that means ill: each behaves badly in one way, and writes down what it was shown. Used by the
//! torture test of a tenant and by the benchmark of memory.
//!
//! They speak just enough HTTP/1.1 for that, by hand: a well-made server would refuse to misbehave so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// The longest head that is read.
const HEAD: usize = 64 << 10;

/// The description in each page of a [`Manner::Fill`]: just below what Herald takes of one answer.
const FILLING: usize = 4 << 20;

/// The length of a body whose end is withheld.
const WITHHELD: usize = 2 * FILLING;

/// What an endless body brings at once, and the pause after it: many of them must leave the processor to others.
const PIECE: (usize, Duration) = (8 << 10, Duration::from_millis(20));

/// Statuses by commit, as a [`Manner::Lie`] claims them.
pub type Claims = Arc<Mutex<HashMap<String, Vec<Value>>>>;

/// How a server behaves.
#[derive(Clone)]
pub enum Manner {
    /// Reads the request and never answers.
    Hang,
    /// Answers 200 and a body that never ends.
    Endless,
    /// Answers all but the last byte of 8 MiB.
    Withhold,
    /// Answers listings of one status with a description of megabytes, and a next page each time.
    Fill,
    /// Sends its head a byte a second.
    Drip,
    /// Answers as a proxy or a Git host that has every status which is claimed, and takes every write for itself.
    Lie(Claims),
    /// Sends the request elsewhere.
    Redirect(String),
}

/// A running server. Dropping it cuts every connection.
pub struct Hostile {
    /// Its base URL, without a trailing slash.
    pub url: String,
    heads: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hostile {
    /// Listens on a free port of this address.
    pub async fn start(host: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let filling = Bytes::from(
            json!([{"id": 1, "status": "failure", "context": "filler",
            "description": "x".repeat(FILLING)}])
            .to_string(),
        );
        let seen = heads.clone();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => {
                        connections.spawn(converse(stream, manner.clone(), seen.clone(), filling.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { url, heads, server }
    }

    /// The port it listens on.
    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap_or_default()
    }

    /// Head of each request, in order of arrival; "" for a connection that brought none.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }
}

/// Serves one connection until either side has enough.
async fn converse(mut stream: TcpStream, manner: Manner, heads: Arc<Mutex<Vec<String>>>, filling: Bytes) {
    let mut rest = Vec::new();
    loop {
        let Some((head, body)) = request(&mut stream, &mut rest).await else {
            if rest.is_empty() && heads.lock().is_empty() {
                // A connection alone shows as well that the address was reached.
                heads.lock().push(String::new());
            }
            return;
        };
        heads.lock().push(head.clone());
        if answer(&mut stream, &manner, &head, &body, &filling).await.is_err() {
            return;
        }
    }
}

/// The next request: its head and its body. What came beyond it stays in `rest`.
async fn request(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(end) = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if rest.len() > HEAD || stream.read_buf(rest).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&rest[..end]).into_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let whole = end + length.unwrap_or(0);
    while rest.len() < whole {
        if stream.read_buf(rest).await.ok()? == 0 {
            return None;
        }
    }
    let body = rest[end..whole].to_vec();
    rest.drain(..whole);
    Some((head, body))
}

async fn answer(
    stream: &mut TcpStream,
    manner: &Manner,
    head: &str,
    body: &[u8],
    filling: &[u8],
) -> std::io::Result<()> {
    // A tunnel would have to be honest to be of use to anybody.
    if head.starts_with("CONNECT ") {
        return std::future::pending().await;
    }
    match manner {
        Manner::Hang => std::future::pending().await,
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            let piece = format!("{:x}\r\n{}\r\n", PIECE.0, "y".repeat(PIECE.0));
            loop {
                stream.write_all(piece.as_bytes()).await?;
                sleep(PIECE.1).await;
            }
        }
        Manner::Withhold => {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {WITHHELD}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..WITHHELD / FILLING {
                stream.write_all(&vec![b' '; FILLING - 1]).await?;
            }
            std::future::pending().await
        }
        Manner::Fill => {
            let next = head.split(' ').nth(1).unwrap_or("/");
            let link = format!("Link: <{next}>; rel=\"next\"\r\n");
            write(stream, "200 OK", &link, filling).await
        }
        Manner::Drip => {
            for byte in "HTTP/1.1 200 OK\r\nX-Slow: ".bytes().chain(std::iter::repeat(b'z')) {
                stream.write_all(&[byte]).await?;
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        }
        Manner::Lie(claims) if head.starts_with("GET ") => {
            let listing = claimed(claims, head);
            write(stream, "200 OK", "", Value::from(listing).to_string().as_bytes()).await
        }
        Manner::Lie(_) => {
            let mut said: Value = serde_json::from_slice(body).unwrap_or_default();
            if let Some(said) = said.as_object_mut() {
                said.insert("id".to_owned(), 1.into());
            }
            write(stream, "201 Created", "", said.to_string().as_bytes()).await
        }
        Manner::Redirect(to) => write(stream, "307 Temporary Redirect", &format!("Location: {to}\r\n"), b"").await,
    }
}

/// What is claimed of the commit that a request names.
fn claimed(claims: &Claims, head: &str) -> Vec<Value> {
    let claims = claims.lock();
    let commit = claims.keys().find(|commit| head.contains(commit.as_str()));
    commit.and_then(|commit| claims.get(commit)).cloned().unwrap_or_default()
}

async fn write(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await
}
