//! A forward proxy on loopback: it opens tunnels for HTTPS, passes plain requests on, and remembers
//! where its clients wanted to go. All names lead to one host.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Bytes a request's head may have.
const MAX_HEAD: usize = 16 << 10;

/// A running proxy; it ends with the test's runtime.
pub struct Proxy {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What the first request of a connection said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT`, or the method of a plain request.
    pub method: String,
    /// The host, with its port for a tunnel.
    pub host: String,
    /// `Proxy-Authorization`, or "".
    pub authorization: String,
}

impl Proxy {
    /// Every tunnel leads to `tls`, every plain request to `plain`; both are base URLs.
    pub async fn start(tls: &str, plain: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let address = |url: &str| url.rsplit('/').next().expect("a base URL").to_owned();
        let (tls, plain, noted) = (address(tls), address(plain), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, tls.clone(), plain.clone(), noted.clone()));
            }
        });
        Self { url, asked }
    }

    /// Where clients wanted to go, sorted, each once.
    pub fn asked(&self) -> Vec<Asked> {
        let mut asked = self.asked.lock().clone();
        asked.sort_by(|one, other| one.host.cmp(&other.host));
        asked.dedup();
        asked
    }
}

async fn pass(mut client: TcpStream, tls: String, plain: String, noted: Arc<Mutex<Vec<Asked>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) if head.len() < MAX_HEAD => head.push(byte),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let authorization = lines.filter_map(|line| line.split_once(": "));
    let authorization = authorization.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let authorization = authorization.map(|(_, value)| value.to_owned()).next().unwrap_or_default();
    let tunnel = method == "CONNECT";
    let host = target.strip_prefix("http://").unwrap_or(target).split('/').next().unwrap_or_default();
    noted.lock().push(Asked { method: method.to_owned(), host: host.to_owned(), authorization });

    let Ok(mut server) = TcpStream::connect(if tunnel { tls } else { plain }).await else { return };
    let begun = match tunnel {
        true => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await,
        false => server.write_all(&head).await,
    };
    if begun.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
