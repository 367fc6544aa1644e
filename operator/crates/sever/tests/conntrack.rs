//! Real flows between two network namespaces, as between a node and a pod, under a policy that lets established flows live, as Calico's and
//! kube-router's do. Needs root, `ip`, `nft`, `nsenter` and `unshare`; where they are missing, each test says so and is skipped. Nothing
//! outside of the two namespaces is changed.

#![allow(clippy::unwrap_used, reason = "a test that can not set its scene has failed")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quell_sever::conntrack::{ConntrackError, Table, cut};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities};

const PORT: u16 = 7777;
/// Longer than any answer within one machine takes.
const ANSWER: Duration = Duration::from_secs(1);

/// The pod's addresses, and one of a pod beside it.
const POD: [&str; 2] = ["10.9.9.2", "fd09::2"];
const OTHER: [&str; 2] = ["10.9.9.3", "fd09::3"];

/// A network namespace that ends with its process.
struct Space(Child);

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Space {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let space = Self(child);
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        while fs::read_link(space.path()).is_ok_and(|there| there == own) {
            thread::yield_now();
        }
        space
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, command: &str) {
        let net = format!("--net={}", self.path());
        let done = Command::new("nsenter").arg(net).args(command.split_whitespace()).status().unwrap();
        assert!(done.success(), "{command}");
    }

    fn rules(&self, rules: &str) {
        let net = format!("--net={}", self.path());
        let mut nft = Command::new("nsenter").args([&net, "nft", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// Does this in the namespace, on a thread of its own: a thread that has moved does not come back.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(self.path()).unwrap();
        let moved = move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(moved).join().unwrap())
    }
}

/// Node and pod; `None`, after saying so, where this machine can't have them.
fn node_and_pod() -> Option<(Space, Space)> {
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|done| done.status.success());
    let ip = Command::new("ip").arg("-V").output().is_ok_and(|done| done.status.success());
    let root = rustix::process::geteuid().is_root();
    let able = root && ip && have("nft") && have("nsenter") && have("unshare");
    if !able || !Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|done| done.success()) {
        eprintln!("SKIPPED: needs root, ip, nft, nsenter, unshare, and the right to make network namespaces");
        return None;
    }
    let (node, pod) = (Space::new(), Space::new());
    node.run("ip link set lo up");
    node.run("ip link add veth0 type veth peer name eth0");
    node.run(&format!("ip link set eth0 netns {}", pod.0.id()));
    node.run("ip link set veth0 up");
    pod.run("ip link set lo up");
    pod.run("ip link set eth0 up");
    for address in ["10.9.9.1/24", "fd09::1/64"] {
        node.run(&format!("ip addr add {address} dev veth0{}", nodad(address)));
    }
    for address in POD.iter().chain(&OTHER) {
        let length = if address.contains(':') { 64 } else { 24 };
        pod.run(&format!("ip addr add {address}/{length} dev eth0{}", nodad(address)));
    }
    // What has no rule is not tracked.
    node.rules("table inet track { chain out { type filter hook output priority 0; ct state invalid counter; }; }");
    Some((node, pod))
}

/// Addresses of IPv6 are else not to be used before their uniqueness was looked at, for more than a second.
fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Established flows live, new ones don't; neighbours are still to be found.
const POLICY: &str = "table inet contain { chain out { type filter hook output priority 10; policy drop; \
                      ct state established,related accept; meta l4proto ipv6-icmp accept; }; \
                      chain in { type filter hook input priority 10; policy drop; \
                      ct state established,related accept; meta l4proto ipv6-icmp accept; }; }";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Answers every byte with itself, over TCP and UDP, until its thread is given up.
fn serve(pod: &Space) {
    for at in POD.iter().chain(&OTHER) {
        let at = SocketAddr::new(address(at), PORT);
        let (tcp, udp) = pod.within(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        thread::spawn(move || {
            for connection in tcp.incoming() {
                let mut connection = connection.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while connection.read_exact(&mut byte).is_ok() && connection.write_all(&byte).is_ok() {}
                });
            }
        });
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((_, from)) = udp.recv_from(&mut byte) {
                let _ = udp.send_to(&byte, from);
            }
        });
    }
}

/// A flow from the node to the pod.
enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    fn tcp(node: &Space, to: &str) -> Self {
        let to = SocketAddr::new(address(to), PORT);
        let stream = node.within(|| TcpStream::connect_timeout(&to, ANSWER).unwrap());
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        Self::Tcp(stream)
    }

    fn udp(node: &Space, to: &str) -> Self {
        let to = SocketAddr::new(address(to), PORT);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = node.within(|| UdpSocket::bind(any).unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        Self::Udp(socket)
    }

    /// Whether what is sent comes back.
    fn lives(&mut self) -> bool {
        let mut byte = [0];
        match self {
            Self::Tcp(stream) => stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok(),
            Self::Udp(socket) => socket.send(b"x").is_ok() && socket.recv(&mut byte).is_ok(),
        }
    }
}

#[test]
fn established_flows_that_a_policy_leaves_alive_end_with_their_entries_and_those_of_others_live() {
    let Some((node, pod)) = node_and_pod() else { return };
    serve(&pod);
    let flows = |to: [&'static str; 2]| {
        to.map(|to| [Flow::tcp(&node, to), Flow::udp(&node, to)]).into_iter().flatten().collect::<Vec<Flow>>()
    };
    let mut of_pod = flows(POD);
    let mut of_other = flows(OTHER);
    assert!(of_pod.iter_mut().chain(&mut of_other).all(Flow::lives));
    node.rules(POLICY);
    assert!(of_pod.iter_mut().chain(&mut of_other).all(Flow::lives), "the policy leaves what is established alone");

    let addresses: BTreeSet<IpAddr> = POD.into_iter().map(address).collect();
    let there = node.within(|| Table::open().unwrap().entries(&addresses).unwrap().len());
    assert!(there >= 4, "{there} entries for four flows");
    let report = node.within(|| cut(&addresses).unwrap());
    assert!(report.deleted.is_some_and(|deleted| deleted >= there), "{report:?}");
    assert_eq!(report.remaining, 0);
    assert_eq!(node.within(|| Table::open().unwrap().entries(&addresses).unwrap()), []);

    assert!(!of_pod.iter_mut().any(Flow::lives), "a flow has outlived its entry");
    assert!(of_other.iter_mut().all(Flow::lives), "a flow of another pod was cut");
    assert_eq!(node.within(|| cut(&addresses).unwrap()).deleted, Some(0), "done twice is done once");
}

#[test]
fn a_flow_that_is_still_let_through_comes_back_and_is_reported() {
    let Some((node, pod)) = node_and_pod() else { return };
    serve(&pod);
    let mut flow = Flow::tcp(&node, POD[0]);
    let (over, addresses) = (AtomicBool::new(false), BTreeSet::from([address(POD[0])]));
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(flow.lives());
            }
        });
        let report = node.within(|| cut(&addresses).unwrap());
        over.store(true, Ordering::Relaxed);
        report
    });
    assert!(report.remaining > 0, "{report:?}: no policy stands, so the flow goes on");
    assert!(flow.lives());
}

#[test]
fn without_the_right_it_says_which_one_is_missing() {
    let answer = thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(CapabilitySet::NET_ADMIN);
        }
        set_capabilities(None, sets).unwrap();
        cut(&BTreeSet::from([address(POD[0])]))
    });
    let error = answer.join().unwrap().unwrap_err();
    assert!(matches!(error, ConntrackError::NotPermitted { .. }), "{error}");
    assert!(error.to_string().contains("NET_ADMIN"), "{error}");
}
