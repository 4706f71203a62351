//! An asynchronous client in Rust: hickory's resolver by the pod's resolv.conf, both types of address at once, and connections to all of
//! them a moment apart, of which the first to come about is taken (RFC 8305).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use sluice_testnet::dns::{ResolvConf, Transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{API, GIT, RESOLVER, SPARE, Stage, WWW, to_names};
use crate::client::ip;
use crate::scene::{LONG, SHORT};

/// How long a connection may take before the next one is tried beside it (RFC 8305, section 8).
const BESIDE: Duration = Duration::from_millis(250);

fn resolver(files: &ResolvConf, by: Transport) -> TokioResolver {
    let (config, mut options) = parse_resolv_conf(files.text()).unwrap();
    assert_eq!((options.ndots, config.search().len()), (5, 3));
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    // Nothing of the machine that the tests run on.
    options.use_hosts_file = ResolveHosts::Never;
    let servers = files.nameservers.iter().map(|server| match by {
        Transport::Udp => NameServerConfig::udp(*server),
        Transport::Tcp => NameServerConfig::tcp(*server),
    });
    let config = ResolverConfig::from_parts(None, config.search().to_vec(), servers.collect());
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().unwrap()
}

/// IPv6 first, and then in turn.
async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<SocketAddr> {
    let (v6, v4): (Vec<IpAddr>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv6());
    let mut in_turn: Vec<&IpAddr> = Vec::new();
    for place in 0..v6.len().max(v4.len()) {
        in_turn.extend([&v6, &v4].into_iter().filter_map(|family| family.get(place)));
    }
    let mut tries = JoinSet::new();
    for (place, address) in (0..).zip(in_turn) {
        let to = SocketAddr::new(*address, port);
        tries.spawn(async move {
            tokio::time::sleep(BESIDE * place).await;
            TcpStream::connect(to).await?.peer_addr()
        });
    }
    let mut last = Err(io::ErrorKind::NotFound.into());
    while let Some(done) = tries.join_next().await {
        last = done?;
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Looks up and connects in the pod's namespace, as one program does.
fn in_pod<T: Send>(stage: &Stage, work: impl AsyncFnOnce() -> T + Send) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async || tokio::time::timeout(LONG, work()).await.expect("an end within the time");
    stage.scene.pod("shop/web").ns().run(|| runtime().block_on(limited()))
}

#[test]
fn a_rust_client_finds_and_connects() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    for server in RESOLVER {
        let files = ResolvConf::of_cluster(ip(server), "shop");
        for by in [Transport::Udp, Transport::Tcp] {
            let (found, connected) = in_pod(&stage, async || {
                let found = resolver(&files, by).lookup_ip("api.github.com").await.unwrap();
                let addresses: Vec<IpAddr> = found.iter().collect();
                let connected = connect(&addresses, GIT).await;
                (addresses, connected)
            });
            assert_eq!(found, [ip(API[1]), ip(API[0])], "{server} by {by:?}");
            let connected = connected.unwrap_or_else(|error| panic!("{server} by {by:?}: {error}"));
            assert!(found.contains(&connected.ip()));
            let refused = in_pod(&stage, async || resolver(&files, by).lookup_ip("www.example.org").await);
            let refused = refused.map(|found| found.iter().collect::<Vec<_>>());
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("Query Refused") || said.contains("REFUSED"), "{server} by {by:?}: {said}");
        }
    }
    for address in API {
        assert!(stage.opens_now("shop/web", (ip(address), GIT).into()), "{address}");
    }
    // Addresses that it has from elsewhere: all are tried in vain.
    let elsewhere = [WWW[0], WWW[1], SPARE[0]].map(ip);
    let in_vain = in_pod(&stage, async || tokio::time::timeout(SHORT, connect(&elsewhere, GIT)).await);
    assert!(in_vain.is_err(), "{in_vain:?}");
}
