//! A verdict in the words of the model.

use lb_model::{Model, Packet, Route};
use lb_plan::nftables::Verdict;

/// `verdict` on `packet` must be what the model says, hairpin included.
#[track_caller]
pub(crate) fn agree(verdict: &Verdict, model: &Model, packet: &Packet) {
    let route = model.route_packet(packet);
    match (&route, verdict) {
        (Route::Reject, Verdict::Reject)
        | (Route::Drop, Verdict::Drop)
        | (Route::NotOurs, Verdict::Untouched) => {}
        (
            Route::Endpoints { candidates, .. },
            Verdict::Translated {
                targets,
                masquerade,
                hairpin,
                ..
            },
        ) => {
            let mut found: Vec<_> = targets.iter().map(|t| (t.ip, t.port)).collect();
            found.sort_unstable();
            let wanted: Vec<_> = candidates.iter().map(|e| (e.ip, e.port)).collect();
            assert_eq!(found, wanted, "{packet:?}");
            for endpoint in candidates {
                let itself = hairpin
                    .iter()
                    .any(|t| (t.ip, t.port) == (endpoint.ip, endpoint.port));
                assert_eq!(
                    *masquerade || itself,
                    route.masqueraded_to(endpoint, packet.source),
                    "{packet:?} to {endpoint:?}"
                );
            }
        }
        _ => panic!("{packet:?}: the model says {route:?}, the kernel does {verdict:?}"),
    }
}
