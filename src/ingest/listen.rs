//! Where Herald listens: the sockets of its three ports. Called by `app` at start.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpListener;

/// Connections the kernel keeps until they are accepted; it takes fewer where `somaxconn` is less.
const BACKLOG: i32 = 1024;

/// Listens on `host:port`. Without a host, or at `[::]`, that is every interface by IPv6 and IPv4, whatever
/// `net.ipv6.bindv6only` says, and by IPv4 alone where there is no IPv6: what Go's `net.Listen` does.
///
/// # Errors
/// The system's, or that it is no address.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    let port = address.strip_prefix("[::]").unwrap_or(address).strip_prefix(':');
    match port.and_then(|port| port.parse().ok()) {
        Some(port) => everywhere(port, by_ipv6),
        None => TcpListener::bind(address).await,
    }
}

fn everywhere(port: u16, by_ipv6: impl FnOnce(u16) -> io::Result<Socket>) -> io::Result<TcpListener> {
    let socket = match by_ipv6(port) {
        // The kernel was started without IPv6, or it is off on every interface.
        Err(error)
            if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
                || error.kind() == ErrorKind::AddrNotAvailable =>
        {
            bound(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())?
        }
        socket => socket?,
    };
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn by_ipv6(port: u16) -> io::Result<Socket> {
    bound(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
}

fn bound(domain: Domain, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for connections of the last process to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn no_host_is_every_interface_by_ipv6_and_ipv4() {
        for address in [":0", "[::]:0"] {
            let listener = listen(address).await.expect("a free port");
            let at = listener.local_addr().expect("it is bound");
            TcpStream::connect((Ipv4Addr::LOCALHOST, at.port())).await.expect("heard by IPv4");
            if at.is_ipv6() {
                // The system's default may be the other one, so that a connection alone proves nothing.
                assert!(!SockRef::from(&listener).only_v6().expect("it is IPv6"), "{address}");
            }
            if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
                TcpStream::connect((Ipv6Addr::LOCALHOST, at.port())).await.expect("heard by IPv6");
            }
        }
    }

    #[tokio::test]
    async fn without_ipv6_it_is_ipv4_and_other_errors_stay() {
        for error in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
            let listener = everywhere(0, |_| Err(error.into())).expect("IPv4 is there");
            let at = listener.local_addr().expect("it is bound");
            assert_eq!(at.ip(), Ipv4Addr::UNSPECIFIED);
            TcpStream::connect((Ipv4Addr::LOCALHOST, at.port())).await.expect("heard");
        }
        for error in [Errno::ADDRINUSE, Errno::ACCESS] {
            let refused = everywhere(0, |_| Err(error.into())).expect_err("no other family helps");
            assert_eq!(refused.raw_os_error(), Some(error.raw_os_error()));
        }
    }

    #[tokio::test]
    async fn a_host_is_taken_at_its_word() {
        let listener = listen("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        assert_eq!(at.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(listen(&at.to_string()).await.expect_err("taken").kind(), ErrorKind::AddrInUse);
        for wrong in ["", ":", ":http", ":70000", "9090"] {
            assert!(listen(wrong).await.is_err(), "{wrong:?}");
        }
    }
}
