//! Model manifests and engines
