//! Which addresses a request may go to. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// A network of IPv4.
const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

/// A network of IPv6, by the first segments of its prefix.
const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// The networks of machines that an operator can own, without a route from the internet.
const PRIVATE_V4: [Ipv4Net; 5] = [
    v4(10, 0, 0, 0, 8),
    // Shared address space of providers, which also mesh networks use.
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
];

/// The other networks that are not the internet. The link-local one has the metadata of clouds.
const OTHER_V4: [Ipv4Net; 10] = [
    v4(0, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// Unique local addresses. The loopback address is compared as a whole.
const PRIVATE_V6: Ipv6Net = v6(0xfc00, 0, 0, 7);

/// The metadata of clouds at addresses that are public, or in [`PRIVATE_V4`].
const METADATA_V4: [Ipv4Addr; 2] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// A part of [`PRIVATE_V6`] that has the metadata of a cloud, as a link-local network of IPv4 has.
const METADATA_NET_V6: Ipv6Net = v6(0xfd00, 0x0ec2, 0, 32);

/// The metadata of other clouds in [`PRIVATE_V6`].
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042),
];

/// The well-known prefix of NAT64. A network with DNS64 gives such an address to each name that has
/// an IPv4 address only.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);

/// The addresses of the internet.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Parts of [`PUBLIC_V6`] that are not the internet, or that stand for an IPv4 address.
const NOT_PUBLIC_V6: [Ipv6Net; 4] =
    [v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x2002, 0, 0, 16), v6(0x3fff, 0, 0, 20)];

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the internet.
    Public,
    /// In a private network, or on this machine.
    Private,
    /// Link-local, reserved, or a form that contains another address.
    Other,
}

impl Place {
    /// Returns where an address is. An IPv4 address in the form of IPv6 is where the former is. In
    /// [`NAT64`], a translator connects to the IPv4 address, so only a public one is allowed.
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) if METADATA_V4.contains(&v4) => Self::Other,
            IpAddr::V4(v4) if PRIVATE_V4.iter().any(|net| net.contains(&v4)) => Self::Private,
            IpAddr::V4(v4) if OTHER_V4.iter().any(|net| net.contains(&v4)) => Self::Other,
            IpAddr::V4(_) => Self::Public,
            IpAddr::V6(v6) if METADATA_NET_V6.contains(&v6) => Self::Other,
            IpAddr::V6(v6) if METADATA_V6.contains(&v6) => Self::Other,
            IpAddr::V6(v6) if NAT64.contains(&v6) => {
                let [.., a, b, c, d] = v6.octets();
                match Self::of(Ipv4Addr::new(a, b, c, d).into()) {
                    Self::Public => Self::Public,
                    Self::Private | Self::Other => Self::Other,
                }
            }
            IpAddr::V6(v6) if v6.is_loopback() || PRIVATE_V6.contains(&v6) => Self::Private,
            IpAddr::V6(v6) if !PUBLIC_V6.contains(&v6) => Self::Other,
            IpAddr::V6(v6) if NOT_PUBLIC_V6.iter().any(|net| net.contains(&v6)) => Self::Other,
            IpAddr::V6(_) => Self::Public,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_that_is_not_the_internet_is_known_from_its_first_to_its_last_address() {
        for (place, nets) in
            [(Place::Private, PRIVATE_V4.as_slice()), (Place::Other, OTHER_V4.as_slice())]
        {
            for net in nets {
                for address in [net.network(), net.broadcast()] {
                    assert_eq!(Place::of(address.into()), place, "{address}");
                    let mapped = IpAddr::V6(address.to_ipv6_mapped());
                    assert_eq!(Place::of(mapped), place, "{mapped}");
                }
            }
        }
        for net in NOT_PUBLIC_V6 {
            for address in [net.network(), net.broadcast()] {
                assert_eq!(Place::of(address.into()), Place::Other, "{address}");
            }
        }
    }

    #[test]
    fn addresses_are_where_the_registries_of_iana_have_them() {
        for (address, place) in [
            ("0.0.0.0", Place::Other),
            ("1.1.1.1", Place::Public),
            ("9.255.255.255", Place::Public),
            ("10.0.0.7", Place::Private),
            ("11.0.0.0", Place::Public),
            ("100.63.255.255", Place::Public),
            ("100.64.0.1", Place::Private),
            ("100.128.0.0", Place::Public),
            ("127.0.0.1", Place::Private),
            ("127.255.255.254", Place::Private),
            ("169.254.169.254", Place::Other),
            ("172.15.255.255", Place::Public),
            ("172.16.0.1", Place::Private),
            ("172.32.0.0", Place::Public),
            ("192.0.0.8", Place::Other),
            ("192.88.99.1", Place::Other),
            ("192.168.1.1", Place::Private),
            ("198.17.255.255", Place::Public),
            ("198.18.0.1", Place::Other),
            ("198.20.0.0", Place::Public),
            ("223.255.255.255", Place::Public),
            ("224.0.0.1", Place::Other),
            ("240.0.0.1", Place::Other),
            ("255.255.255.255", Place::Other),
            ("::", Place::Other),
            ("::1", Place::Private),
            ("::127.0.0.1", Place::Other),
            ("::ffff:127.0.0.1", Place::Private),
            ("::ffff:169.254.169.254", Place::Other),
            ("::ffff:1.1.1.1", Place::Public),
            // The metadata of clouds.
            ("168.63.129.16", Place::Other),
            ("168.63.129.17", Place::Public),
            ("100.100.100.200", Place::Other),
            ("100.100.100.201", Place::Private),
            ("::ffff:100.100.100.200", Place::Other),
            ("fd20:ce::254", Place::Other),
            ("fd00:c1::a9fe:a9fe", Place::Other),
            ("fd00:42::42", Place::Other),
            ("fd00:42::43", Place::Private),
            // NAT64, 6to4 and Teredo contain an IPv4 address.
            ("64:ff9b::101:101", Place::Public),
            ("64:ff9b::a00:7", Place::Other),
            ("64:ff9b::a9fe:a9fe", Place::Other),
            ("64:ff9b::a83f:8110", Place::Other),
            ("64:ff9b::1:0:101:101", Place::Other),
            ("64:ff9b::7f00:1", Place::Other),
            ("64:ff9b:1::1", Place::Other),
            ("2002:7f00:1::", Place::Other),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Place::Other),
            ("2001:db8::1", Place::Other),
            ("3fff::1", Place::Other),
            ("100::1", Place::Other),
            ("fc00::1", Place::Private),
            ("fd12:3456::1", Place::Private),
            ("fd00:ec2::254", Place::Other),
            ("fe80::1", Place::Other),
            ("fec0::1", Place::Other),
            ("ff02::1", Place::Other),
            ("2606:4700:4700::1111", Place::Public),
            ("2001:4860:4860::8888", Place::Public),
        ] {
            assert_eq!(Place::of(address.parse().unwrap()), place, "{address}");
        }
    }
}
