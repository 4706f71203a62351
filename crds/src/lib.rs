//! How people write policy: Kubernetes objects and manifests, lowered to `sluice_policy::source`.
