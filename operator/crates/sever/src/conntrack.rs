//! Connection tracking: what the kernel knows of an address, and its removal.
//!
//! The kernel's side is `net/netfilter/nf_conntrack_netlink.c`; the numbers are those of `linux/netfilter/nfnetlink.h` and
//! `nfnetlink_conntrack.h`. An entry is deleted by the very bytes that the kernel has named it with, so that every protocol that it tracks
//! is met, also those that this file doesn't know.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NlaBuffer, NlasIterator, Parseable as _,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use thiserror::Error;

use crate::Report;
use crate::rounds::{BOUND, until_quiet};

/// `NFNL_SUBSYS_CTNETLINK`, the upper byte of a message's type.
const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = CTNETLINK;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// In a tuple: its addresses. In those: source and destination of IPv4, then of IPv6.
const TUPLE_IP: u16 = 1;
const ADDRESSES: std::ops::RangeInclusive<u16> = 1..=4;

/// `AF_INET` and `AF_INET6` of Linux.
const INET: u8 = 2;
const INET6: u8 = 10;
/// `struct nfgenmsg`: family, version 0, resource 0.
const GENERAL_HEADER: usize = 4;
/// Dumps that the kernel could not finish undisturbed are made anew this often in a row.
const DUMPS: usize = 5;

/// `EPERM` and `ENOENT`, as the kernel answers them.
const NOT_PERMITTED: i32 = -1;
const NOT_THERE: i32 = -2;

/// Why connection tracking could not be read or changed.
#[derive(Debug, Error)]
pub enum ConntrackError {
    /// There is no socket to the kernel.
    #[error("no netlink socket to connection tracking: {0}")]
    Open(#[source] io::Error),
    /// A message did not get through.
    #[error("{doing} conntrack entries: {source}")]
    Exchange {
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The right is missing.
    #[error(
        "{doing} conntrack entries is not permitted: the container needs the capability NET_ADMIN and its node's network"
    )]
    NotPermitted {
        /// What was attempted.
        doing: &'static str,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's list of conntrack entries can't be read: {0}")]
    Unreadable(#[from] DecodeError),
}

/// Deletes every entry of which one of these addresses is an end, in either direction, and looks again until none comes back. An entry
/// that does come back is a flow that is still let through.
pub fn cut(addresses: &BTreeSet<IpAddr>) -> Result<Report, ConntrackError> {
    let mut table = Table::open()?;
    let mut deleted = 0;
    let remaining = until_quiet(BOUND, || {
        let entries = table.entries(addresses)?;
        for entry in &entries {
            deleted += usize::from(table.delete(entry)?);
        }
        Ok::<_, ConntrackError>(entries.len())
    })?;
    Ok(Report { deleted: Some(deleted), signalled: None, remaining })
}

/// The connection tracking table of the network namespace that this process is in.
pub struct Table {
    socket: Socket,
    sequence: u32,
}

/// One entry, by what the kernel names it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    family: u8,
    /// The original direction's tuple, the zone and the ID, as they came.
    name: Vec<DefaultNla>,
    /// Source and destination, of both directions.
    ends: BTreeSet<IpAddr>,
}

impl Table {
    /// Opens the table.
    pub fn open() -> Result<Self, ConntrackError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(ConntrackError::Open)?;
        socket.bind_auto().map_err(ConntrackError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(ConntrackError::Open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The entries of which one of these addresses is an end.
    pub fn entries(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Entry>, ConntrackError> {
        let families: BTreeSet<u8> = addresses.iter().map(|one| if one.is_ipv4() { INET } else { INET6 }).collect();
        let mut found = Vec::new();
        for family in families {
            let all = self.dump(family)?;
            found.extend(all.into_iter().filter(|entry| !entry.ends.is_disjoint(addresses)));
        }
        Ok(found)
    }

    /// Deletes an entry. `false`: it was gone already.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, ConntrackError> {
        const DOING: &str = "deleting";
        self.send(DOING, DELETE, NLM_F_REQUEST | NLM_F_ACK, entry.family, &entry.name)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(DOING, |message| {
                if message.message_type() == NLMSG_ERROR {
                    answer = Some(code(message.payload()));
                }
                Ok(())
            })?;
        }
        match answer.unwrap_or_default() {
            0 => Ok(true),
            NOT_THERE => Ok(false),
            code => Err(refused(DOING, code)),
        }
    }

    fn dump(&mut self, family: u8) -> Result<Vec<Entry>, ConntrackError> {
        const DOING: &str = "listing";
        let mut entries = Vec::new();
        for _ in 0..DUMPS {
            self.send(DOING, GET, NLM_F_REQUEST | NLM_F_DUMP, family, &[])?;
            entries.clear();
            let (mut over, mut disturbed, mut failed) = (false, false, 0);
            while !over {
                self.receive(DOING, |message| {
                    disturbed |= message.flags() & NLM_F_DUMP_INTR != 0;
                    match message.message_type() {
                        NEW => entries.push(Entry::read(family, message.payload())?),
                        NLMSG_DONE | NLMSG_ERROR => {
                            over = true;
                            failed = code(message.payload());
                        }
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            if failed != 0 {
                return Err(refused(DOING, failed));
            }
            if !disturbed {
                break;
            }
        }
        Ok(entries)
    }

    fn send(
        &mut self,
        doing: &'static str,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: &[DefaultNla],
    ) -> Result<(), ConntrackError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        let head = header.buffer_len() + GENERAL_HEADER;
        let length = head + attributes.buffer_len();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = kind;
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = vec![0; length];
        header.emit(&mut message);
        message[head - GENERAL_HEADER] = family;
        attributes.emit(&mut message[head..]);
        self.socket.send(&message, 0).map_err(|source| ConntrackError::Exchange { doing, source })?;
        Ok(())
    }

    /// Takes one datagram and gives each message in it that answers the last request.
    fn receive(
        &mut self,
        doing: &'static str,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), DecodeError>,
    ) -> Result<(), ConntrackError> {
        let (datagram, _) =
            self.socket.recv_from_full().map_err(|source| ConntrackError::Exchange { doing, source })?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)?;
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
            if message.sequence_number() == self.sequence {
                each(&message)?;
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Entry {
    fn read(family: u8, message: &[u8]) -> Result<Self, DecodeError> {
        let mut entry = Self { family, name: Vec::new(), ends: BTreeSet::new() };
        for attribute in NlasIterator::new(message.get(GENERAL_HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            if matches!(attribute.kind(), TUPLE_ORIG | TUPLE_REPLY) {
                ends(&attribute, &mut entry.ends)?;
            }
            if matches!(attribute.kind(), TUPLE_ORIG | ID | ZONE) {
                entry.name.push(DefaultNla::parse(&attribute)?);
            }
        }
        Ok(entry)
    }
}

fn ends(tuple: &NlaBuffer<&[u8]>, into: &mut BTreeSet<IpAddr>) -> Result<(), DecodeError> {
    for part in NlasIterator::new(tuple.value()) {
        let part = part?;
        if part.kind() != TUPLE_IP {
            continue;
        }
        for address in NlasIterator::new(part.value()) {
            let address = address?;
            if ADDRESSES.contains(&address.kind()) {
                into.insert(netlink_packet_core::parse_ip(address.value())?);
            }
        }
    }
    Ok(())
}

/// The number with which `NLMSG_ERROR` and `NLMSG_DONE` begin: 0, or a negative errno.
fn code(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

fn refused(doing: &'static str, code: i32) -> ConntrackError {
    if code == NOT_PERMITTED {
        return ConntrackError::NotPermitted { doing };
    }
    ConntrackError::Exchange { doing, source: io::Error::from_raw_os_error(code.saturating_neg()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let nla = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        bytes
    }

    fn tuple(kind: u16, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let addresses = [nla(1, &source), nla(2, &destination)].concat();
        nla(kind, &[nla(TUPLE_IP, &addresses), nla(2, &nla(1, &[6]))].concat())
    }

    #[test]
    fn an_entry_is_met_by_the_ends_of_both_directions_and_named_by_the_bytes_that_came() {
        // A Service's address is translated: only the reply knows the pod behind it.
        let original = tuple(TUPLE_ORIG, [10, 0, 0, 1], [10, 96, 0, 1]);
        let reply = tuple(TUPLE_REPLY, [10, 0, 0, 2], [10, 0, 0, 1]);
        let (id, mark) = (nla(ID, &[0, 0, 0, 7]), nla(8, &[0, 0, 0, 0]));
        let message = [vec![INET, 0, 0, 0], original.clone(), reply, mark, id.clone()].concat();
        let entry = Entry::read(INET, &message).unwrap();
        let ends = ["10.0.0.1", "10.0.0.2", "10.96.0.1"].map(|one| one.parse().unwrap());
        assert_eq!(entry.ends, BTreeSet::from(ends));
        let mut name = vec![0; entry.name.as_slice().buffer_len()];
        entry.name.as_slice().emit(&mut name);
        assert_eq!(name, [original, id].concat());
    }

    #[test]
    fn a_message_that_is_cut_off_is_an_error_and_no_panic() {
        let whole = [vec![INET, 0, 0, 0], tuple(TUPLE_ORIG, [10, 0, 0, 1], [10, 0, 0, 2])].concat();
        for length in 0..whole.len() {
            let entry = Entry::read(INET, &whole[..length]);
            assert!(entry.is_err() || length <= GENERAL_HEADER, "{length}: {entry:?}");
        }
    }
}
