//! Which addresses Herald connects to. Loopback, link-local, unspecified and multicast addresses are refused:
//! behind them are the pod itself, its node and the cloud's metadata, which no tenant may reach through Herald.
//! `--allow-address` makes exceptions. Asked by `client` for every address, literal or resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Metadata services outside the link-local ranges: AWS over IPv6 (docs.aws.amazon.com/AWSEC2, "Instance metadata
/// and user data"), Alibaba Cloud (alibabacloud.com/help, "Obtain instance metadata"), Azure's host
/// (learn.microsoft.com, "What is IP address 168.63.129.16?").
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// A range of addresses, as in `127.0.0.0/8`; one address is a range of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    prefix: u8,
}

/// Text that is no address and no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an IP address or a range of them, such as 10.0.0.7 or 127.0.0.0/8")]
pub struct NotARange;

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (address, prefix) = text.trim().split_once('/').map_or((text.trim(), None), |(of, by)| (of, Some(by)));
        let address = address.parse().map_err(|_| NotARange)?;
        let longest = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| NotARange)?;
        if prefix > longest { Err(NotARange) } else { Ok(Self { address, prefix }) }
    }
}

impl AddressRange {
    /// Whether the address is in the range; an address of the other family never is.
    pub fn contains(&self, address: IpAddr) -> bool {
        // A shift by all bits overflows, and leaves nothing to compare.
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let differ = range.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differ = range.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The addresses that may be connected to.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    allowed: Arc<[AddressRange]>,
}

impl Addresses {
    /// All that are not refused by default, and these ranges.
    pub fn allowing(ranges: &[AddressRange]) -> Self {
        Self { allowed: ranges.into() }
    }

    /// Whether Herald connects there.
    pub fn permit(&self, address: IpAddr) -> bool {
        let address = plain(address);
        !is_local(address) || self.allowed.iter().any(|range| range.contains(address))
    }

    /// Whether the host of a URL is a literal address that is refused. A name is looked at when it is resolved.
    pub fn refuse(&self, url: &Url) -> bool {
        match url.host() {
            Some(Host::Ipv4(address)) => !self.permit(address.into()),
            Some(Host::Ipv6(address)) => !self.permit(address.into()),
            Some(Host::Domain(name)) => {
                let is_local = name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost");
                is_local && !self.permit(Ipv4Addr::LOCALHOST.into()) && !self.permit(Ipv6Addr::LOCALHOST.into())
            }
            None => false,
        }
    }
}

/// An IPv4 address that is written as IPv6, by mapping (RFC 4291 2.5.5.2) or NAT64 (RFC 6052 2.1), as what it is.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
        }
        _ => address,
    }
}

fn is_local(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    special
        || METADATA.contains(&address)
        || match address {
            // All of 0.0.0.0/8 is "this host" (RFC 1122 3.2.1.3).
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

/// Resolves names by the system, and leaves out the addresses that are refused.
pub(super) struct Resolver {
    /// What may be connected to.
    pub addresses: Addresses,
    /// Names that the operator chose: those of the environment's proxies.
    pub trusted: Arc<[String]>,
}

/// All addresses of a name are refused.
#[derive(Debug, thiserror::Error)]
#[error("every address of the name is refused")]
struct Refused;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, trusted) = (self.addresses.clone(), self.trusted.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let trusted = trusted.iter().any(|known| known.eq_ignore_ascii_case(name.as_str()));
            let permitted: Vec<_> = found.into_iter().filter(|found| trusted || addresses.permit(found.ip())).collect();
            if permitted.is_empty() {
                return Err(Refused.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_refused_however_they_are_written() {
        let addresses = Addresses::default();
        for refused in [
            "http://127.0.0.1/",
            "http://127.9.9.9:8080/",
            "http://localhost/",
            "http://any.localhost/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0.0.0.0/",
            "http://0.1.2.3/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[ff02::1]/",
        ] {
            assert!(addresses.refuse(&Url::parse(refused).expect("a URL")), "{refused}");
        }
        for permitted in
            ["http://10.0.0.1/", "http://192.168.1.1/", "http://[fd00::1]/", "http://1.1.1.1/", "http://host/"]
        {
            assert!(!addresses.refuse(&Url::parse(permitted).expect("a URL")), "{permitted}");
        }
    }

    #[test]
    fn ranges_make_exceptions() {
        let allowing = |ranges: &[&str]| {
            let ranges: Vec<_> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
            Addresses::allowing(&ranges)
        };
        let permit = |addresses: &Addresses, address: &str| addresses.permit(address.parse().expect("an address"));
        let some = allowing(&["127.0.0.0/8", "fe80::/10", "169.254.169.254"]);
        for (address, permitted) in [
            ("127.0.0.1", true),
            ("127.255.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fe80::7", true),
            ("169.254.169.254", true),
            ("169.254.169.253", false),
            ("::1", false),
        ] {
            assert_eq!(permit(&some, address), permitted, "{address}");
        }
        assert!(permit(&allowing(&["0.0.0.0/0"]), "127.0.0.1"));
        assert!(permit(&allowing(&["::/0"]), "::1"));
        for wrong in ["", "host", "127.0.0.1/33", "::1/129", "127.0.0.0/", "127.0.0.0/-1", "1.2.3/8"] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(NotARange), "{wrong}");
        }
    }
}
