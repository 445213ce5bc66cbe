//! Cluster DNS: names of Services and pods, answered from the store.
