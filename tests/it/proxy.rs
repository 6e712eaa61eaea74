//! A forward proxy on loopback: it opens tunnels for HTTPS, passes plain requests on, speaks SOCKS5, and
//! remembers where its clients wanted to go. All names lead to one host.

use std::io;
use std::net::Ipv4Addr;
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
    /// `CONNECT`, the method of a plain request, or `SOCKS5`.
    pub method: String,
    /// The host, with its port for a tunnel and for SOCKS5.
    pub host: String,
    /// `Proxy-Authorization`, for SOCKS5 `user:password`, or "".
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
    let mut head = vec![client.read_u8().await.unwrap_or_default()];
    if head[0] == SOCKS5 {
        if let Ok(asked) = greet(&mut client).await {
            let backend = if asked.host.ends_with(":443") { tls } else { plain };
            noted.lock().push(asked);
            let Ok(mut server) = TcpStream::connect(backend).await else { return };
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        return;
    }
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

/// The first byte of SOCKS5; no method of HTTP begins so.
const SOCKS5: u8 = 5;

/// A client's wishes by RFC 1928, its first byte read, and its password by RFC 1929 where it has one.
async fn greet(client: &mut TcpStream) -> io::Result<Asked> {
    let mut methods = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut methods).await?;
    const PASSWORD: u8 = 2;
    let mut authorization = String::new();
    if methods.contains(&PASSWORD) {
        client.write_all(&[SOCKS5, PASSWORD]).await?;
        client.read_u8().await?;
        authorization = format!("{}:{}", text(client).await?, text(client).await?);
        client.write_all(&[1, 0]).await?;
    } else {
        client.write_all(&[SOCKS5, 0]).await?;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        3 => text(client).await?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let host = format!("{host}:{}", client.read_u16().await?);
    client.write_all(&[SOCKS5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(Asked { method: "SOCKS5".to_owned(), host, authorization })
}

/// Text with its length before it.
async fn text(client: &mut TcpStream) -> io::Result<String> {
    let mut text = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
