//! Which proxy a request takes: the Provider's own, or the environment's by the rules of Go, which the other
//! Flux controllers follow (golang.org/x/net/http/httpproxy). `client` gives the choice to reqwest, whose are
//! tunnels, SOCKS5 and authentication.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Proxy;
use url::{Host, Url};

use super::addresses::AddressRange;
use super::{Addresses, ClientError};
use crate::secret::Secret;

/// What the environment says of proxies; read once, at the start.
#[derive(Default)]
pub(super) struct Environment {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Exceptions,
}

impl Environment {
    /// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or their names in lower case. `HTTP_PROXY` does not count where
    /// `REQUEST_METHOD` is set: there a client of a CGI program chooses its value.
    pub fn read() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(value: impl Fn(&str) -> Option<String>) -> Self {
        let either = |upper: &str| value(upper).or_else(|| value(&upper.to_ascii_lowercase()));
        let http = either("HTTP_PROXY").filter(|_| value("REQUEST_METHOD").is_none());
        let address = |text: Option<String>| text.and_then(|text| address(&text));
        let exceptions = Exceptions::parse(&either("NO_PROXY").unwrap_or_default());
        Self { http: address(http), https: address(either("HTTPS_PROXY")), exceptions }
    }

    /// The proxy for a URL.
    fn proxy_for(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.exceptions.cover(url))
    }

    /// The names of the proxies' hosts: the operator chose them, wherever they are.
    pub fn hosts(&self) -> Vec<String> {
        [&self.http, &self.https].into_iter().flatten().filter_map(Url::host_str).map(str::to_owned).collect()
    }

    /// The same for reqwest; `None` where there is no proxy.
    pub fn proxy(self: &Arc<Self>) -> Option<Proxy> {
        if self.http.is_none() && self.https.is_none() {
            return None;
        }
        let environment = self.clone();
        Some(Proxy::custom(move |url| environment.proxy_for(url).cloned()))
    }
}

/// The proxy that a Provider names, for every host.
///
/// # Errors
/// [`ClientError::Proxy`] for what is no proxy's address, [`ClientError::ProxyRefused`] for a refused one.
pub(super) fn of_provider(text: &Secret, addresses: &Addresses) -> Result<Proxy, ClientError> {
    let address = address(text.expose()).ok_or(ClientError::Proxy)?;
    if addresses.refuse(&address) {
        return Err(ClientError::ProxyRefused);
    }
    Proxy::all(address).map_err(|_| ClientError::Proxy)
}

/// The address of a proxy: `http`, `https`, `socks5` or `socks5h`; `http` when no scheme is given. As in Go, a
/// SOCKS proxy resolves the names in both cases: a name may be known nowhere else.
fn address(text: &str) -> Option<Url> {
    let spoken = |url: &Url| matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    let text = text.trim();
    // `host:3128` parses as a scheme and a path.
    let url = match Url::parse(text) {
        Ok(url) if spoken(&url) => url,
        _ if text.contains("://") => return None,
        _ => Url::parse(&format!("http://{text}")).ok()?,
    };
    url.host_str().filter(|host| !host.is_empty())?;
    match url.as_str().strip_prefix("socks5://") {
        // The scheme of a URL cannot be set from one that has no default port to one that has none.
        Some(rest) => Url::parse(&format!("socks5h://{rest}")).ok(),
        None => Some(url),
    }
}

/// `NO_PROXY`.
#[derive(Default)]
struct Exceptions {
    all: bool,
    ranges: Vec<AddressRange>,
    addresses: Vec<(IpAddr, Option<u16>)>,
    /// With a dot before it; whether the name without it counts as well; the port that alone counts.
    names: Vec<(String, bool, Option<u16>)>,
}

impl Exceptions {
    fn parse(text: &str) -> Self {
        let mut exceptions = Self::default();
        for entry in text.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()) {
            exceptions.add(&entry);
        }
        exceptions
    }

    fn add(&mut self, entry: &str) {
        if entry == "*" {
            self.all = true;
            return;
        }
        if let (true, Ok(range)) = (entry.contains('/'), entry.parse()) {
            self.ranges.push(range);
            return;
        }
        let (host, port) = host_and_port(entry);
        if let Ok(address) = host.parse() {
            self.addresses.push((address, port));
            return;
        }
        // `*.name` is `.name`: what ends so, and not the name itself.
        let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        if name.is_empty() {
            return;
        }
        let itself = !name.starts_with('.');
        let name = if itself { format!(".{name}") } else { name.to_owned() };
        self.names.push((name, itself, port));
    }

    /// Whether a URL is reached without a proxy. Loopback always is.
    fn cover(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        let counts = |of: &Option<u16>| of.is_none() || *of == port;
        let address = match url.host() {
            None => return true,
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let matches = |(suffix, itself, of): &(String, bool, Option<u16>)| {
                    (name.ends_with(suffix.as_str()) || (*itself && name == suffix[1..])) && counts(of)
                };
                return self.all || name == "localhost" || self.names.iter().any(matches);
            }
        };
        self.all
            || address.is_loopback()
            || self.ranges.iter().any(|range| range.contains(address))
            || self.addresses.iter().any(|(known, of)| *known == address && counts(of))
    }
}

/// `host:port`, `[v6]:port`, or a host alone.
fn host_and_port(entry: &str) -> (&str, Option<u16>) {
    let bare = |host: &str| host.starts_with('[') || !host.contains(':');
    let split = entry.rsplit_once(':').filter(|(host, _)| bare(host));
    let split = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.map_or((entry, None), |(host, port)| (host, Some(port)));
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(values: &[(&str, &str)]) -> Environment {
        let value = |name: &str| values.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Environment::of(value)
    }

    fn taken(environment: &Environment, url: &str) -> Option<String> {
        environment.proxy_for(&Url::parse(url).expect("a URL")).map(|proxy| proxy.as_str().to_owned())
    }

    /// golang.org/x/net/http/httpproxy, `Config.NoProxy` and its tests.
    #[test]
    fn exceptions_are_read_as_go_reads_them() {
        for (no_proxy, url, proxied) in [
            ("", "http://example.com/", true),
            ("", "http://localhost/", false),
            ("", "http://127.0.0.1/", false),
            ("", "http://127.9.9.9/", false),
            ("", "http://[::1]/", false),
            ("*", "http://example.com/", false),
            ("10.0.0.0/8", "http://10.1.2.3/", false),
            ("10.0.0.0/8", "http://11.1.2.3/", true),
            ("10.0.0.0/8", "http://ten.example/", true),
            ("fd00::/8", "http://[fd12::1]/", false),
            ("192.168.1.1", "http://192.168.1.1/", false),
            ("192.168.1.1", "http://192.168.1.2/", true),
            ("192.168.1.1:81", "http://192.168.1.1/", true),
            ("192.168.1.1:81", "http://192.168.1.1:81/", false),
            ("[fd00::1]:81", "http://[fd00::1]:81/", false),
            ("example.com", "http://example.com/", false),
            ("example.com", "http://www.example.com/", false),
            ("example.com", "http://notexample.com/", true),
            (".example.com", "http://example.com/", true),
            (".example.com", "http://www.example.com/", false),
            ("*.example.com", "http://example.com/", true),
            ("*.example.com", "http://a.b.example.com/", false),
            ("example.com:81", "http://example.com/", true),
            ("example.com:81", "http://example.com:81/", false),
            ("example.com:443", "https://example.com/", false),
            (" a.example ,  EXAMPLE.com ,", "http://Example.COM/", false),
            ("10.0.0.0/8,.cluster.local,*.example.com", "http://svc.cluster.local/", false),
            ("example.com.", "http://example.com/", true),
        ] {
            let environment = environment(&[
                ("HTTP_PROXY", "http://proxy:3128"),
                ("https_proxy", "proxy:3129"),
                ("no_proxy", no_proxy),
            ]);
            assert_eq!(taken(&environment, url).is_some(), proxied, "{no_proxy:?} and {url}");
        }
    }

    #[test]
    fn the_environment_names_proxies_as_in_go() {
        let both =
            environment(&[("HTTP_PROXY", "upper:1"), ("http_proxy", "lower:2"), ("https_proxy", "https://u:p@s")]);
        assert_eq!(taken(&both, "http://a/").as_deref(), Some("http://upper:1/"));
        assert_eq!(taken(&both, "https://a/").as_deref(), Some("https://u:p@s/"));
        assert_eq!(both.hosts(), ["upper", "s"]);
        let cgi = environment(&[("HTTP_PROXY", "upper:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(taken(&cgi, "http://a/"), None);
        let socks = environment(&[("HTTPS_PROXY", "socks5://s:1080")]);
        assert_eq!(taken(&socks, "https://a/").as_deref(), Some("socks5h://s:1080"));
        let other = environment(&[("ALL_PROXY", "http://all:1")]);
        assert_eq!(taken(&other, "https://a/"), None, "Go knows no such name");
    }
}
