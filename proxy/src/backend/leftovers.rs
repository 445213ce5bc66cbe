//! What a kube-proxy that ran on this node before left in nftables: `table ip kube-proxy` and
//! `table ip6 kube-proxy`. It would go on sending new connections to endpoints that are long gone.
//! (What kube-proxy leaves in iptables bears the names of our own iptables data plane, which removes
//! it.)

use lb_model::Family;
use nodekit::Errno;
use nodekit::nft::{self, Batch, NftSocket};

use super::BackendError;

/// The name that kube-proxy gives its tables (`pkg/proxy/nftables/proxier.go` of Kubernetes 1.36).
const TABLE: &str = "kube-proxy";

/// Removes kube-proxy's tables; gives the families of which there was one.
///
/// # Errors
/// [`BackendError::Nft`]; one family's failure does not keep the other's table.
pub fn remove_kube_proxy() -> Result<Vec<Family>, BackendError> {
    let mut socket = NftSocket::open()?;
    let mut removed = Vec::new();
    let mut result = Ok(());
    for (family, kind) in [
        (Family::V4, nft::Family::Ip),
        (Family::V6, nft::Family::Ip6),
    ] {
        match remove(&mut socket, kind) {
            Ok(true) => removed.push(family),
            Ok(false) => {}
            Err(error) => result = Err(error.into()),
        }
    }
    result.map(|()| removed)
}

fn remove(socket: &mut NftSocket, family: nft::Family) -> Result<bool, nft::Error> {
    let tables = match socket.tables(Some(family)) {
        // No nftables, so no table.
        Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => return Ok(false),
        tables => tables?,
    };
    if !tables.iter().any(|table| table.name == TABLE) {
        return Ok(false);
    }
    let mut batch = Batch::new(family, TABLE);
    batch.destroy_table(0);
    socket.commit(&batch)?;
    Ok(true)
}
