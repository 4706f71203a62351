//! gRPC through the real programs: a service made with a common library, its clients, and policies that name its methods.

use std::net::Ipv6Addr;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_testnet::orders::wire::order_service_client::OrderServiceClient;
use sluice_testnet::orders::wire::{Order, OrderRequest};
use sluice_testnet::{orders, wait_until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::curl;
use crate::scene::{LONG, Scene};

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/orders", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/stranger", "node-1", &["10.1.0.3"]),
];

const ALL_BUT_DELETE: [&str; 4] = ["GetOrder", "WatchOrders", "CreateOrders", "Trade"];

/// `orders` takes these methods from `frontend`.
fn policies(methods: &[&str]) -> String {
    let items: String =
        methods.iter().map(|m| format!("    - {{ service: orderservice.OrderService, method: {m} }}\n")).collect();
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: orders, namespace: shop }}\nspec:\n  \
         podSelector: {{ matchLabels: {{ app: orders }} }}\n  ingress:\n  - from: [ {{ podSelector: {{ matchLabels: {{ app: \
         frontend }} }} }} ]\n    ports: [ {{ port: 50051 }} ]\n    grpc:\n{items}"
    )
}

fn start() -> Option<Scene> {
    let scene = Scene::start(&["node-1"], &PODS, &policies(&ALL_BUT_DELETE), &[])?;
    let server = scene.pod("shop/orders").ns().tcp_listen((Ipv6Addr::UNSPECIFIED, 50051).into()).unwrap();
    orders::serve(server).unwrap();
    Some(scene)
}

async fn connect(scene: &Scene, address: &str) -> OrderServiceClient<Channel> {
    let stream = scene.pod("shop/frontend").ns().tcp_connect(None, address.parse().unwrap(), LONG).unwrap();
    orders::connect(stream).await.unwrap()
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(3 * LONG, what).await.expect("the calls end in time") })
}

fn request(number: u64) -> OrderRequest {
    OrderRequest { number, count: 0 }
}

fn order(number: u64) -> Order {
    Order { number, goods: String::new() }
}

fn id_of(status: &Status) -> &str {
    status.metadata().get("x-sluice-id").expect("a denial has its id").to_str().unwrap()
}

/// The records of the calls of a method, once there are so many.
fn records_of(scene: &Scene, method: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    let written = wait_until(LONG, || {
        found = scene.programs.records("node-1");
        found.retain(|record| record["type"] == "request" && record["grpc"]["method"] == method);
        found.len() >= count
    });
    assert!(written, "{count} records of {method}: {found:#?}");
    found
}

#[test]
fn methods_are_allowed_one_by_one_on_a_kept_connection() {
    let Some(scene) = start() else { return };
    for address in ["10.1.0.2:50051", "[fd00:1::2]:50051"] {
        block_on(async {
            let mut client = connect(&scene, address).await;
            assert_eq!(client.get_order(request(7)).await.unwrap().into_inner().goods, "7 lamps");
            let denied = client.delete_order(request(7)).await.unwrap_err();
            assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
            let sentence = "Sluice denied POST /orderservice.OrderService/DeleteOrder from shop/frontend to shop/orders port 50051: no \
                            ingress rule of SluiceNetworkPolicy shop/orders allows it (NoRuleMatched)";
            assert_eq!(denied.message(), sentence);
            let record = scene.programs.wait_record("node-1", LONG, |record| record["id"] == id_of(&denied)).unwrap();
            assert_eq!(record["grpc"], json!({ "service": "orderservice.OrderService", "method": "DeleteOrder", "status": 7 }));
            assert_eq!((&record["verdict"], &record["http"]["status"]), (&json!("deny"), &json!(200)));
            assert_eq!(client.get_order(request(8)).await.unwrap().into_inner().number, 8, "the connection goes on");
        });
    }
    let got = records_of(&scene, "GetOrder", 4);
    for record in &got {
        assert_eq!((&record["verdict"], &record["grpc"]["status"]), (&json!("allow"), &json!(0)));
        assert_eq!(record["policy"]["rule"], "ingress[0].grpc[0]");
    }
    // What isn't a call isn't what the rule is about, and hears so in its own tongue.
    let plain = ["--http2-prior-knowledge", "--data", "x"];
    let frontend = scene.pod("shop/frontend");
    let answer = curl(frontend.ns(), "http://10.1.0.2:50051/orderservice.OrderService/GetOrder", &plain);
    assert_eq!((answer.status, answer.header("grpc-status")), (403, None), "{answer:?}");
    let stranger = scene.pod("shop/stranger");
    assert!(stranger.ns().tcp_connect(None, "10.1.0.2:50051".parse().unwrap(), Duration::from_millis(700)).is_err());
}

#[test]
fn streams_of_every_kind_pass() {
    let Some(scene) = start() else { return };
    block_on(async {
        let mut client = connect(&scene, "10.1.0.2:50051").await;
        let mut watched = client.watch_orders(OrderRequest { number: 10, count: 5 }).await.unwrap().into_inner();
        let mut numbers = Vec::new();
        while let Some(order) = watched.message().await.unwrap() {
            numbers.push(order.number);
        }
        assert_eq!(numbers, [10, 11, 12, 13, 14]);

        let created = client.create_orders(tokio_stream::iter((0..500).map(order))).await.unwrap();
        assert_eq!(created.into_inner().orders, 500);

        let (orders, queue) = mpsc::channel(1);
        let mut back = client.trade(ReceiverStream::new(queue)).await.unwrap().into_inner();
        for number in 0..100 {
            orders.send(order(number)).await.unwrap();
            assert_eq!(back.message().await.unwrap().unwrap().number, number, "each comes back before the next is sent");
        }
        drop(orders);
        assert!(back.message().await.unwrap().is_none());
    });
    for method in ["WatchOrders", "CreateOrders", "Trade"] {
        let record = records_of(&scene, method, 1).remove(0);
        assert_eq!((&record["verdict"], &record["grpc"]["status"]), (&json!("allow"), &json!(0)), "{record:#}");
    }
}

#[test]
fn calls_side_by_side_are_judged_one_by_one() {
    let Some(scene) = start() else { return };
    block_on(async {
        let client = connect(&scene, "10.1.0.2:50051").await;
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..200 {
            let mut client = client.clone();
            calls.spawn(async move {
                if number % 4 == 0 {
                    let denied = client.delete_order(request(number)).await.unwrap_err();
                    assert_eq!(denied.code(), Code::PermissionDenied, "{number}: {denied:?}");
                } else {
                    assert_eq!(client.get_order(request(number)).await.unwrap().into_inner().number, number);
                }
            });
        }
        calls.join_all().await;
    });
    assert!(records_of(&scene, "DeleteOrder", 50).iter().all(|record| record["grpc"]["status"] == 7));
    assert!(records_of(&scene, "GetOrder", 150).iter().all(|record| record["grpc"]["status"] == 0));
}

#[test]
fn a_policy_change_reaches_a_kept_connection_and_its_open_streams() {
    let Some(mut scene) = start() else { return };
    block_on(async {
        let mut client = connect(&scene, "10.1.0.2:50051").await;
        let mut watched = client.watch_orders(request(0)).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().number, 0);
        let (orders, queue) = mpsc::channel(1);
        let mut back = client.trade(ReceiverStream::new(queue)).await.unwrap().into_inner();
        orders.send(order(1)).await.unwrap();
        assert_eq!(back.message().await.unwrap().unwrap().number, 1);

        scene.policies(&policies(&["GetOrder", "Trade"]));
        let ended = loop {
            match watched.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream looks complete"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::PermissionDenied, "{ended:?}");
        let said = "policies have changed, denied by SluiceNetworkPolicy shop/orders (ingress) (PolicyChanged)";
        assert!(ended.message().ends_with(said), "{ended:?}");
        orders.send(order(2)).await.unwrap();
        assert_eq!(back.message().await.unwrap().unwrap().number, 2, "a stream that is still allowed goes on");
        assert_eq!(client.get_order(request(3)).await.unwrap().into_inner().number, 3);

        scene.policies(&policies(&["Trade"]));
        let denied = client.get_order(request(4)).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "the next call: {denied:?}");
        orders.send(order(5)).await.unwrap();
        assert_eq!(back.message().await.unwrap().unwrap().number, 5, "on the same connection");
    });
    let record = records_of(&scene, "WatchOrders", 1).remove(0);
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("PolicyChanged")), "{record:#}");
    assert_eq!(record["grpc"]["status"], 7);
    // All of it, and it ended as its client wished.
    let connection = scene.connection_record("node-1", "NeedsRequest");
    assert!(records_of(&scene, "GetOrder", 2).iter().all(|record| record["connection"] == connection["id"]));
}
