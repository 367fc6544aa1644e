//! Sets of IPv4 and IPv6 addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::ranges::Ranges;

/// A set of addresses, of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addresses {
    v4: Ranges,
    v6: Ranges,
}

impl Addresses {
    /// Every address.
    #[must_use]
    pub fn all() -> Self {
        Self { v4: Ranges::new(0, u128::from(u32::MAX)), v6: Ranges::new(0, u128::MAX) }
    }

    /// The addresses of a block but for those of `except`. Bits behind the prefix are ignored, as they are by network plugins.
    #[must_use]
    pub fn block(cidr: IpNet, except: &[IpNet]) -> Self {
        except.iter().fold(Self::of(cidr), |rest, hole| rest.difference(&Self::of(*hole)))
    }

    fn of(cidr: IpNet) -> Self {
        match cidr {
            IpNet::V4(net) => Self {
                v4: Ranges::new(u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits())),
                v6: Ranges::default(),
            },
            IpNet::V6(net) => {
                Self { v4: Ranges::default(), v6: Ranges::new(net.network().to_bits(), net.broadcast().to_bits()) }
            }
        }
    }

    /// Whether the address is in the set; an IPv4 address written as IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(u128::from(address.to_bits())),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        Self { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }

    fn blocks(&self) -> Vec<IpNet> {
        let v4 = self.v4.iter().filter_map(|(first, last)| {
            Some(Ipv4Subnets::new(
                Ipv4Addr::from(u32::try_from(first).ok()?),
                Ipv4Addr::from(u32::try_from(last).ok()?),
                0,
            ))
        });
        let v6 = self.v6.iter().map(|(first, last)| Ipv6Subnets::new(Ipv6Addr::from(first), Ipv6Addr::from(last), 0));
        v4.flatten().map(IpNet::V4).chain(v6.flatten().map(IpNet::V6)).collect()
    }

    /// The smallest block of each family that holds the set.
    fn hulls(&self) -> Vec<IpNet> {
        let v4 = self.v4.ends().and_then(|(first, last)| {
            let (first, last) = (u32::try_from(first).ok()?, u32::try_from(last).ok()?);
            let prefix = u8::try_from((first ^ last).leading_zeros()).ok()?;
            IpNet::new(IpAddr::from(Ipv4Addr::from(first)), prefix).ok()
        });
        let v6 = self.v6.ends().and_then(|(first, last)| {
            let prefix = u8::try_from((first ^ last).leading_zeros()).ok()?;
            IpNet::new(IpAddr::from(Ipv6Addr::from(first)), prefix).ok()
        });
        v4.into_iter().chain(v6).map(|net| net.trunc()).collect()
    }
}

/// A block, or one address for itself, as Cilium and Calico take it, too.
pub(crate) fn net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// As a policy would say it: `10.0.0.0/8 except 10.1.0.0/16`, or as blocks where that is shorter.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("any address");
        }
        let blocks = self.blocks();
        let hulls = self.hulls();
        let holes = hulls.iter().fold(Self::default(), |all, net| all.union(&Self::of(*net))).difference(self).blocks();
        if hulls.len() + holes.len() < blocks.len() {
            return write!(f, "{} except {}", list(&hulls), list(&holes));
        }
        f.write_str(&list(&blocks))
    }
}

fn list(nets: &[IpNet]) -> String {
    const LISTED: usize = 8;
    let mut parts: Vec<_> = nets.iter().take(LISTED).map(ToString::to_string).collect();
    if nets.len() > LISTED {
        parts.push(format!("{} more", nets.len() - LISTED));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(cidr: &str) -> IpNet {
        cidr.parse().expect("a CIDR")
    }

    #[test]
    fn a_block_with_exceptions_is_told_as_it_was_written() {
        let block = Addresses::block(net("10.0.0.0/8"), &[net("10.1.0.0/16"), net("10.2.3.0/24")]);
        assert_eq!(block.to_string(), "10.0.0.0/8 except 10.1.0.0/16, 10.2.3.0/24");
        assert_eq!(Addresses::block(net("fd00::/8"), &[net("fd00:1::/32")]).to_string(), "fd00::/8 except fd00:1::/32");
        assert_eq!(Addresses::block(net("192.0.2.1/32"), &[]).to_string(), "192.0.2.1/32");
        assert_eq!(Addresses::all().to_string(), "any address");
    }

    #[test]
    fn an_ipv4_block_holds_no_ipv6_address_and_the_other_way_round() {
        let v4 = Addresses::block(net("0.0.0.0/0"), &[]);
        let v6 = Addresses::block(net("::/0"), &[]);
        let (four, six) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert!(v4.contains(four) && !v4.contains(six));
        assert!(v6.contains(six) && !v6.contains(four));
        assert!(v4.contains("::ffff:10.0.0.1".parse().expect("an address")), "written as IPv6, it is the IPv4 address");
        assert_eq!(v4.union(&v6), Addresses::all());
    }

    #[test]
    fn bits_behind_the_prefix_say_nothing() {
        assert_eq!(Addresses::block(net("10.1.2.3/8"), &[]), Addresses::block(net("10.0.0.0/8"), &[]));
    }
}
