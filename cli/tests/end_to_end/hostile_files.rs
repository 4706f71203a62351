//! Manifests that are broken, absurd or huge: reported, and no harm to anything else.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use sluice_testnet::wait_until;

use crate::client::{curl, curl_in_vain, ip};
use crate::http::resident_mib;
use crate::scene::{LONG, SHORT, Scene, pod_file};

const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/frontend", "node-1", &["10.1.0.1"]),
    ("shop/backend", "node-1", &["10.1.0.2"]),
    ("shop/other", "node-1", &["10.1.0.3"]),
    ("shop/stranger", "node-1", &["10.1.0.4"]),
];

/// `pod` takes requests of `frontend` that read below `path`.
fn reads(pod: &str, path: &str) -> String {
    format!(
        r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: {pod}, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: {pod} }} }}
  ingress:
  - from: [ {{ podSelector: {{ matchLabels: {{ app: frontend }} }} }} ]
    ports: [ {{ protocol: TCP, port: 8080 }} ]
    http:
    - {{ method: GET, path: "{path}" }}
"#
    )
}

fn start() -> Option<Scene> {
    let both = [reads("backend", "/a"), reads("other", "/o")].join("---");
    Scene::start(&["node-1"], &PODS, &both, &[])
}

fn status(scene: &Scene, pod: &str, path: &str) -> u64 {
    let address = scene.pod(&format!("shop/{pod}")).v4().unwrap();
    curl(scene.pod("shop/frontend").ns(), &format!("http://{address}:8080{path}"), &[]).status
}

/// What the controller says is wrong, once it says something with all of `words`.
fn reported(scene: &Scene, words: &[&str]) -> String {
    let mut problems = Vec::new();
    let found = wait_until(LONG, || {
        let status = scene.programs.controller_status().unwrap_or_default();
        let lines = status["problems"].as_array().cloned().unwrap_or_default();
        problems = lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect();
        problems.iter().any(|line| words.iter().all(|word| line.contains(word)))
    });
    assert!(found, "nobody reports {words:?}: {problems:#?}");
    let line = problems.into_iter().find(|line| words.iter().all(|word| line.contains(word))).unwrap();
    let controller = scene.programs.controller().unwrap();
    controller.wait_for_error_line(words[0], LONG).unwrap();
    line
}

#[test]
fn a_half_written_file_keeps_what_it_held_and_is_reported() {
    let Some(mut scene) = start() else { return };
    let whole = [reads("backend", "/a"), reads("other", "/o")].join("---");
    // Cut in the middle of a quoted string.
    let cut = whole.rfind("/o\"").unwrap() + 1;
    scene.apply("policies.yaml", &whole[..cut]);
    let line = reported(&scene, &["policies.yaml:", "stays in force"]);
    assert!(line.contains("policies.yaml:2") || line.contains("policies.yaml:1"), "it names the line: {line}");
    println!("reported: {line}");
    assert_eq!((status(&scene, "other", "/o"), status(&scene, "other", "/x")), (200, 403), "what it held stays");
    assert_eq!((status(&scene, "backend", "/a"), status(&scene, "backend", "/x")), (200, 403));
    // Truncated to nothing, as a write that failed leaves it.
    fs::write(scene.manifests().join("policies.yaml"), "").unwrap();
    scene.settle();
    reported(&scene, &["policies.yaml", "empty"]);
    assert_eq!((status(&scene, "other", "/o"), status(&scene, "other", "/x")), (200, 403));
    // Mended.
    scene.apply("policies.yaml", &whole.replace("\"/o\"", "\"/p\""));
    assert_eq!((status(&scene, "other", "/o"), status(&scene, "other", "/p")), (403, 200));
    let problems = scene.programs.controller_status().unwrap()["problems"].clone();
    assert_eq!(problems, serde_json::json!([]));
}

#[test]
fn what_can_not_be_understood_is_named_by_its_field_and_closes_its_pods() {
    let Some(mut scene) = start() else { return };
    let text = reads("backend", "/a") + "---" + &reads("other", "/o").replace("method: GET,", "method: GET, pathh: x,");
    scene.policies(&text);
    let line = reported(&scene, &["policies.yaml:", "shop/other", "pathh"]);
    println!("reported: {line}");
    assert!(line.contains("ingress[0].http[0]"), "it names the field: {line}");
    assert_eq!(status(&scene, "backend", "/a"), 200, "the other object of the file is not disturbed");
    let closed = curl_in_vain(scene.pod("shop/frontend").ns(), "http://10.1.0.3:8080/o");
    assert_ne!(closed.status, 200, "its pods stay isolated: {closed:?}");
    assert!(scene.seen("/o").is_empty());
}

#[test]
fn a_regular_expression_of_ten_megabytes_harms_its_rule_alone() {
    let Some(scene) = start() else { return };
    let huge = format!("/({})", vec!["abcdefgh"; 10 << 17].join("|"));
    assert!(huge.len() > 10 << 20);
    let text = [reads("backend", &huge), reads("other", "/o")].join("---");
    let saved = scene.save("huge.yaml", &reads("backend", &huge).replace("name: backend", "name: huge"));
    // A large file is read beside the others.
    let line = reported(&scene, &["huge.yaml:", "shop/huge"]);
    println!("reported after {:?}: {}", saved.elapsed(), &line[..line.len().min(300)]);
    assert!(line.len() < 2000 && line.contains("path"), "the report names the field, not the expression");
    assert_eq!(
        (status(&scene, "backend", "/a"), status(&scene, "backend", "/abcdefgh")),
        (200, 403),
        "the policy beside it works"
    );
    assert_eq!(status(&scene, "other", "/o"), 200);

    // Where it is the only policy, its pods are closed.
    scene.save("policies.yaml", &text);
    let closed = wait_until(LONG, || {
        let answer = curl_in_vain(scene.pod("shop/frontend").ns(), "http://10.1.0.2:8080/a");
        answer.status != 200
    });
    assert!(closed, "a policy that can't be read still isolates");
    assert_eq!(status(&scene, "other", "/o"), 200, "in the same file");
    let controller = resident_mib(scene.programs.controller().unwrap());
    println!("the controller's memory afterwards: {controller} MiB");
    assert!(controller < 400, "{controller} MiB");
}

/// Anchors and nesting that would unfold to more than any memory holds.
#[test]
fn yaml_that_unfolds_without_end_is_refused() {
    let Some(mut scene) = start() else { return };
    let mut bomb = String::from("apiVersion: v1\nkind: List\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    scene.save("bomb.yaml", &bomb);
    scene.save("deep.yaml", &format!("apiVersion: v1\nkind: Pod\nspec: {}", "[".repeat(200_000)));
    println!("reported: {}", reported(&scene, &["bomb.yaml"]));
    println!("reported: {}", reported(&scene, &["deep.yaml"]));
    scene.policies(&reads("backend", "/b"));
    assert_eq!((status(&scene, "backend", "/a"), status(&scene, "backend", "/b")), (403, 200));
    let controller = resident_mib(scene.programs.controller().unwrap());
    assert!(controller < 200, "{controller} MiB");
}

fn many_pods(count: u32) -> String {
    let mut text = String::with_capacity(300 * count as usize);
    for number in 0..count {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: p{number}, namespace: crowd, labels: {{ app: app{} }} }}\n\
             spec: {{ nodeName: node-9, containers: [ {{ name: c }} ] }}\n\
             status: {{ phase: Running, podIPs: [ {{ ip: 10.{}.{}.{low} }} ] }}",
            number % 50,
            100 + high / 250,
            high % 250,
        );
    }
    text
}

/// So many pods in one file, on another node; `server` on this one lets one in fifty of them in.
fn crowd(count: u32, memory_mib: u64) {
    let Some(mut scene) = start() else { return };
    let text = many_pods(count);
    let before = resident_mib(scene.programs.controller().unwrap());
    let saved = scene.save("crowd.yaml", &text);
    // Other files are not held up.
    scene.policies(&(reads("backend", "/b") + "---" + &reads("other", "/o")));
    println!("{count} pods, {} MiB of YAML: another file is in force after {:?}", text.len() >> 20, saved.elapsed());
    assert_eq!(status(&scene, "backend", "/b"), 200);
    let limit = Duration::from_secs(300);
    let mut most = before;
    let known = wait_until(limit, || {
        most = most.max(resident_mib(scene.programs.controller().unwrap()));
        std::thread::sleep(Duration::from_millis(200));
        let asked = Instant::now();
        let status = scene.programs.controller_status().expect("the controller answers");
        assert!(asked.elapsed() < LONG);
        status["objects"].as_u64() >= Some(count.into())
    });
    assert!(known, "the pods are not known after {limit:?}: {:?}", scene.programs.controller());
    println!("all known after {:?}; the controller's memory {before} MiB before, at most {most} MiB", saved.elapsed());
    let peers = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: crowd, namespace: shop }
spec:
  podSelector: { matchLabels: { app: other } }
  ingress: [ { from: [ { namespaceSelector: {}, podSelector: { matchLabels: { app: app7 } } } ] } ]
"#;
    let saved = Instant::now();
    scene.apply("peers.yaml", peers);
    println!("a policy that names {} of them is in force after {:?}", count / 50, saved.elapsed());
    let sets = scene.node("node-1").ns().exec("nft", &["list", "table", "inet", "sluice"]).unwrap();
    assert!(sets.contains("10.100.0.8"), "pod 7 is a member of a set");
    assert!(!sets.contains("10.100.0.9,"), "pod 8 is not");
    let proxy = resident_mib(scene.programs.proxy("node-1").unwrap());
    let controller = resident_mib(scene.programs.controller().unwrap());
    println!("memory: controller {controller} MiB, proxy {proxy} MiB");
    assert!(most.max(controller) < memory_mib, "the controller: at most {most} MiB");
    assert!(proxy < 200, "the proxy: {proxy} MiB");
    // And all of them go.
    let saved = Instant::now();
    scene.remove("crowd.yaml");
    let gone = wait_until(limit, || {
        let sets = scene.node("node-1").ns().exec("nft", &["list", "table", "inet", "sluice"]).unwrap();
        !sets.contains("10.100.0.8")
    });
    assert!(gone);
    println!("removed after {:?}", saved.elapsed());
}

#[test]
fn ten_thousand_pods_in_a_file() {
    crowd(10_000, 300);
}

#[test]
#[ignore = "long: reads 100,000 pods"]
fn a_hundred_thousand_pods_in_a_file() {
    crowd(100_000, 1500);
}

#[test]
fn a_manifest_that_contradicts_itself_opens_nothing() {
    let Some(mut scene) = start() else { return };
    // Another pod claims the backend's address: whose policies hold is not certain, so neither is reached.
    let twin = scene.manifest_of("shop/backend").replace("name: backend", "name: twin").replace("app: backend", "app: twin");
    scene.apply("twin.yaml", &twin);
    let address = (ip("10.1.0.2"), 8080).into();
    for pod in ["shop/frontend", "shop/stranger"] {
        assert!(scene.pod(pod).ns().tcp_connect(None, address, SHORT).is_err(), "{pod}");
    }
    scene.remove("twin.yaml");
    assert_eq!(status(&scene, "backend", "/a"), 200);
    // The same object twice, in two files, is reported.
    scene.apply("again.yaml", &fs::read_to_string(scene.manifests().join(pod_file("shop/backend"))).unwrap());
    println!("reported: {}", reported(&scene, &["shop/backend", "again.yaml"]));
    assert_eq!(status(&scene, "backend", "/a"), 200);
}
