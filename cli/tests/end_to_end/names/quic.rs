//! QUIC by name, with a client and servers that speak it: judged by the server name that its first packets ask for.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use quinn::rustls::crypto::{CryptoProvider, ring};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use quinn::rustls::{self, DigitallySignedStruct, SignatureScheme};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig};
use serde_json::json;
use sluice_testnet::dns::Zone;
use sluice_testnet::{Netns, Protocol, Service, bound};
use tokio::runtime::{Builder, Runtime};

use super::{API, NODE, Stage, WWW, egress, to_names};
use crate::client::ip;
use crate::scene::{LONG, SHORT};

const INSPECT: [&str; 2] = ["--set", "nameCheck.quic=Inspect"];
const PORT: u16 = 443;
/// So much both ways: more than any buffer on the way holds.
const MUCH: usize = 3 << 20;
const WORD: usize = 100;

/// Servers that send back what they are sent, while a client waits for it.
struct Servers {
    runtime: Runtime,
    _endpoints: Vec<Endpoint>,
}

impl Servers {
    fn start(ns: &Netns, addresses: &[&str]) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let endpoints = addresses.iter().map(|address| {
            let socket = ns.run(|| bound(|| UdpSocket::bind((ip(address), PORT)))).unwrap();
            let endpoint = endpoint(&runtime, socket, Some(server_config()));
            runtime.spawn(serve(endpoint.clone()));
            endpoint
        });
        let _endpoints = endpoints.collect();
        Self { runtime, _endpoints }
    }

    /// A client in a pod, with one socket for all that it does.
    fn client(&self, stage: &Stage, pod: &str, like: &str) -> Client<'_> {
        self.client_on(socket(stage, pod, like))
    }

    fn client_on(&self, socket: UdpSocket) -> Client<'_> {
        let mut endpoint = endpoint(&self.runtime, socket, None);
        endpoint.set_default_client_config(client_config(&[]));
        Client { runtime: &self.runtime, endpoint }
    }
}

fn endpoint(runtime: &Runtime, socket: UdpSocket, server: Option<ServerConfig>) -> Endpoint {
    let _entered = runtime.enter();
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).unwrap()
}

fn socket(stage: &Stage, pod: &str, like: &str) -> UdpSocket {
    let pod = stage.scene.pod(pod);
    let own = pod.addresses()[usize::from(ip(like).is_ipv6())];
    pod.ns().udp_bind((own, 0).into()).unwrap()
}

struct Client<'s> {
    runtime: &'s Runtime,
    endpoint: Endpoint,
}

impl Client<'_> {
    /// A connection to a server that is asked for by `name`; an address is no server name.
    fn connect(&self, to: &str, name: &str) -> Result<Connection, String> {
        self.connect_with(to, name, client_config(&[]))
    }

    fn connect_with(&self, to: &str, name: &str, config: ClientConfig) -> Result<Connection, String> {
        let connecting = async {
            let connecting = self.endpoint.connect_with(config, (ip(to), PORT).into(), name).map_err(|e| e.to_string())?;
            connecting.await.map_err(|error| error.to_string())
        };
        self.runtime.block_on(connecting)
    }

    /// Sends so much, and gets it back.
    fn echo(&self, connection: &Connection, bytes: usize) -> Result<(), String> {
        let sent: Vec<u8> = (0..bytes).map(|byte| byte.to_le_bytes()[0]).collect();
        let exchange = async {
            let (mut to, mut from) = connection.open_bi().await.map_err(|error| error.to_string())?;
            let sending = async {
                to.write_all(&sent).await.map_err(|error| error.to_string())?;
                to.finish().map_err(|error| error.to_string())
            };
            let reading = async { from.read_to_end(bytes).await.map_err(|error| error.to_string()) };
            let ((), got) = tokio::try_join!(sending, reading)?;
            if got == sent { Ok(()) } else { Err("other bytes came back".to_owned()) }
        };
        self.runtime.block_on(exchange)
    }

    /// Whether nothing is answered to an attempt to connect.
    fn is_mute(&self, to: &str, name: &str) -> bool {
        let connecting = async {
            let connecting = self.endpoint.connect((ip(to), PORT).into(), name).unwrap();
            tokio::time::timeout(SHORT, connecting).await
        };
        self.runtime.block_on(connecting).is_err()
    }

    /// The client is told that it is denied, by an answer to its first packets.
    fn assert_denied(&self, to: &str, name: &str) {
        let began = Instant::now();
        let error = self.connect(to, name).unwrap_err();
        assert!(error.contains("denied by Sluice"), "{to} {name}: {error}");
        assert!(began.elapsed() < IDLE, "{to} {name}: {:?}", began.elapsed());
    }
}

/// When clients and servers give up.
const IDLE: Duration = Duration::from_secs(5);

async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        // Some want to be asked twice, and the second ClientHello is protected by other keys.
        if incoming.may_retry() && incoming.remote_address().is_ipv6() {
            incoming.retry().unwrap();
            continue;
        }
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut to, mut from)) = connection.accept_bi().await {
                let Ok(got) = from.read_to_end(2 * MUCH).await else { return };
                if to.write_all(&got).await.is_err() || to.finish().is_err() {
                    return;
                }
            }
        });
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE).unwrap()));
    // One connection waits for the end of another.
    transport.keep_alive_interval(Some(IDLE / 5));
    Arc::new(transport)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server_config() -> ServerConfig {
    let key = rcgen::generate_simple_self_signed(vec!["any.example".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
    let builder = rustls::ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut tls = builder.unwrap().with_no_client_auth().with_single_cert(chain, private).unwrap();
    tls.alpn_protocols = vec![b"echo".to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    config.transport_config(transport());
    config
}

/// `more` are names of protocols that no server has: they make the ClientHello longer.
fn client_config(more: &[Vec<u8>]) -> ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut tls = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    tls.alpn_protocols = [more, &[b"echo".to_vec()]].concat();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(transport());
    config
}

/// Whom a name leads to is not the question here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a socket hears by ICMP that what it sends may not pass.
fn hears_icmp(stage: &Stage, to: SocketAddr, datagram: &[u8]) -> bool {
    let socket = socket(stage, "shop/web", &to.ip().to_string());
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send(datagram).unwrap();
    // As Linux reads the two families' "administratively prohibited".
    let heard = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied][usize::from(to.is_ipv6())];
    socket.recv(&mut [0; 16]).is_err_and(|error| error.kind() == heard)
}

#[test]
fn a_server_name_decides() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com", "www.example.org"]), &INSPECT) else { return };
    let servers = Servers::start(stage.scene.net.outside(), &[API[0], API[1], WWW[0], WWW[1]]);
    // Before a look-up no address is open, whatever name is asked for.
    let early = servers.client(&stage, "shop/web", API[0]);
    assert!(early.is_mute(API[0], "api.github.com"));
    for kind in ["A", "AAAA"] {
        for name in ["api.github.com", "www.example.org"] {
            assert_eq!(stage.dig("shop/web", super::RESOLVER[0], name, kind, &[]).status, "NOERROR");
        }
    }
    for (api, www) in API.into_iter().zip(WWW) {
        let client = servers.client(&stage, "shop/web", api);
        let connection = client.connect(api, "api.github.com").unwrap();
        client.echo(&connection, MUCH).unwrap();
        let other = client.connect(www, "WWW.example.ORG").unwrap();
        client.echo(&other, WORD).unwrap();
        // Another name at the same address, by a socket that has an allowed connection there, and by another.
        client.assert_denied(www, "shop.example.org");
        client.echo(&other, WORD).unwrap();
        let alone = servers.client(&stage, "shop/web", api);
        alone.assert_denied(www, "shop.example.org");
        alone.assert_denied(api, "evil.test");
        // Without a server name.
        alone.assert_denied(api, api);
        // The same socket may ask for an allowed name later.
        client.echo(&alone.connect(api, "api.github.com").unwrap(), WORD).unwrap();
        // A ClientHello of more than one packet.
        let long: Vec<Vec<u8>> = (0..20).map(|number| vec![b'a' + number; 100]).collect();
        let spanning = servers.client(&stage, "shop/web", api);
        let connection = spanning.connect_with(api, "api.github.com", client_config(&long)).unwrap();
        spanning.echo(&connection, WORD).unwrap();
        let error = spanning.connect_with(api, "evil.test", client_config(&long)).unwrap_err();
        assert!(error.contains("denied by Sluice"), "{error}");
        // What is no QUIC, and what is in the middle of some connection.
        let to = (ip(api), PORT).into();
        for datagram in [&b"garbage"[..], &[0x40; 1200], &[0xc0; 1300], &[0xc0, 0xff, 0, 0, 29, 0, 0]] {
            assert!(hears_icmp(&stage, to, datagram), "{api} {datagram:02x?}");
        }
    }
    // `other` has the same rules, and was told nothing.
    let other = servers.client(&stage, "shop/other", API[0]);
    assert!(other.is_mute(API[0], "api.github.com"));
    let denied = |name: &str| {
        let wanted = |record: &serde_json::Value| record["verdict"] == "deny" && record["tls"]["serverName"] == name;
        let record = stage.scene.programs.wait_record(NODE, LONG, wanted);
        record.unwrap_or_else(|| panic!("{:#?}", stage.scene.programs.records(NODE)))
    };
    for (name, destination) in [("shop.example.org", "www.example.org"), ("evil.test", "api.github.com")] {
        let record = denied(name);
        assert_eq!((&record["type"], &record["protocol"]), (&json!("connection"), &json!("UDP")), "{record:#}");
        assert_eq!((&record["reason"], &record["direction"]), (&json!("NoRuleMatched"), &json!("egress")), "{record:#}");
        assert_eq!((&record["policy"]["name"], &record["destination"]["name"]), (&json!("outside"), &json!(destination)));
    }
    stage.scene.connection_record(NODE, "NotTheProtocol");
}

#[test]
fn a_live_flow_outlives_its_name_and_ends_with_its_rule() {
    let arguments = [&INSPECT[..], &["--set", "dns.minTTLSeconds=1", "--set", "dns.maxTTLSeconds=1"]].concat();
    let both = to_names(&["api.github.com", "www.example.org"]);
    let Some(mut stage) = Stage::start(&both, &arguments) else { return };
    let servers = Servers::start(stage.scene.net.outside(), &[API[0], WWW[0]]);
    let client = servers.client(&stage, "shop/web", API[0]);
    let open = |stage: &Stage, to: &str, name: &str| {
        stage.look_up("shop/web", name);
        let connection = client.connect(to, name).unwrap();
        client.echo(&connection, WORD).unwrap();
        connection
    };
    let api = open(&stage, API[0], "api.github.com");
    let www = open(&stage, WWW[0], "www.example.org");
    std::thread::sleep(Duration::from_secs(3));
    client.echo(&api, WORD).unwrap();
    let late = servers.client(&stage, "shop/web", API[0]);
    assert!(late.is_mute(API[0], "api.github.com"), "nobody was told of it any more");
    // A rule that changes nothing for them cuts neither.
    stage.scene.policies(&to_names(&["api.github.com", "www.example.org", "shop.example.org"]));
    client.echo(&api, WORD).unwrap();
    client.echo(&www, WORD).unwrap();
    // The same ports may carry a connection by a name that was told later, and none by one that was told too long ago.
    let shop = open(&stage, WWW[0], "shop.example.org");
    client.assert_denied(API[0], "api.github.com");
    stage.scene.policies(&to_names(&["www.example.org", "shop.example.org"]));
    let error = client.echo(&api, WORD).unwrap_err();
    assert!(error.contains("timed out") || error.contains("lost"), "{error}");
    client.echo(&www, WORD).unwrap();
    client.echo(&shop, WORD).unwrap();
    let record = stage.scene.connection_record(NODE, "PolicyChanged");
    assert_eq!((&record["verdict"], &record["protocol"]), (&json!("deny"), &json!("UDP")), "{record:#}");
    assert_eq!(
        (&record["tls"]["serverName"], &record["destination"]["name"]),
        (&json!("api.github.com"), &json!("api.github.com"))
    );
    assert!(record["bytesSent"].as_u64() > Some(1200) && record["bytesReceived"].as_u64() > Some(1200), "{record:#}");
    assert!(record["durationMs"].as_f64() > Some(3000.0), "{record:#}");
}

/// A rule for TCP alone allows no QUIC, and the client hears that at once; a rule by address allows it unread.
#[test]
fn what_other_rules_say_of_it() {
    let rules = "  - to: [ { fqdns: [ { matchName: api.github.com } ] } ]\n    ports: [ { protocol: TCP, port: 443 } ]\n  \
                 - to: [ { ipBlock: { cidr: 198.51.100.9/32 } } ]\n    ports: [ { protocol: UDP, port: 443 } ]";
    let Some(mut stage) = Stage::start(&egress(rules), &INSPECT) else { return };
    let servers = Servers::start(stage.scene.net.outside(), &[API[0], WWW[0]]);
    stage.look_up("shop/web", "api.github.com");
    assert!(hears_icmp(&stage, (ip(API[0]), PORT).into(), &[0xc0; 1200]));
    let client = servers.client(&stage, "shop/web", WWW[0]);
    client.echo(&client.connect(WWW[0], "any.example").unwrap(), WORD).unwrap();
    // A denied name is denied wherever it is asked for, told or not, and what can't be read may be one.
    stage.scene.policies(&egress("  - action: Deny\n    to: [ { fqdns: [ { matchName: www.example.org } ] } ]\n  - {}"));
    let client = servers.client(&stage, "shop/web", WWW[0]);
    client.assert_denied(API[0], "www.example.org");
    client.echo(&client.connect(WWW[0], "shop.example.org").unwrap(), WORD).unwrap();
    assert!(hears_icmp(&stage, (ip(API[0]), PORT).into(), b"garbage"));
}

/// A server that is a pod of the same node, by a name that may lead there: both ends' rules count, as for any flow.
#[test]
fn a_pod_behind_a_name_has_its_say() {
    const POD: &str = "10.1.0.3";
    const CLUSTER_IP: &str = "10.96.0.20";
    let rules = "  - to: [ { fqdns: [ { matchPattern: \"*.example.test\" } ], allowPrivate: true } ]";
    let Some(mut stage) = Stage::start(&egress(rules), &INSPECT) else { return };
    let zone = |zone: Zone| zone.addresses("pod.example.test", &[ip(POD)]).addresses("service.example.test", &[ip(CLUSTER_IP)]);
    stage.authority.change("example.test", zone).unwrap();
    let (address, backends) = ((ip(CLUSTER_IP), PORT).into(), vec![(ip(POD), PORT).into()]);
    let service = Service { name: "shop/free".to_owned(), protocol: Protocol::Udp, address, backends };
    stage.scene.node(NODE).set_services(&[service]).unwrap();
    let servers = Servers::start(stage.scene.pod("shop/free").ns(), &[POD]);
    stage.look_up("shop/web", "pod.example.test");
    let client = servers.client(&stage, "shop/web", POD);
    let live = client.connect(POD, "pod.example.test").unwrap();
    let metrics = stage.scene.programs.admin(NODE, "/metrics").unwrap();
    assert!(metrics.contains("sluice_quic_unsent_total 0\n"), "what a flow begins with is not lost: {metrics}");
    client.echo(&live, MUCH).unwrap();
    client.assert_denied(POD, "evil.test");
    // Nobody says of datagrams which Service was asked for; the client hears so.
    stage.look_up("shop/web", "service.example.test");
    assert!(hears_icmp(&stage, address, &[0xc0; 1200]));
    // Another proxy knows nothing of what the former one carried.
    stage.scene.programs.kill_proxy(NODE);
    stage.scene.programs.start_proxy(NODE).unwrap();
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    assert!(hears_icmp(&stage, (ip(POD), PORT).into(), &[0x40; 1200]));
    let client = servers.client(&stage, "shop/web", POD);
    let live = client.connect(POD, "pod.example.test").unwrap();
    client.echo(&live, WORD).unwrap();
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: free, namespace: shop }\n\
                  spec:\n  podSelector: { matchLabels: { app: free } }\n  ingress: [ { ports: [ { protocol: TCP, port: 443 } ] } ]\n";
    stage.scene.apply("closed.yaml", closed);
    client.echo(&live, WORD).unwrap_err();
    let late = servers.client(&stage, "shop/web", POD);
    assert!(late.is_mute(POD, "pod.example.test"));
    let record = stage.scene.connection_record(NODE, "PolicyChanged");
    assert_eq!((&record["direction"], &record["policy"]["name"]), (&json!("ingress"), &json!("free")), "{record:#}");
}
