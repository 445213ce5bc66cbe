//! The model is compact and quick: 10,000 Services of 10 endpoints in less than 16 MiB.
//! One test only: the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lb_model::{Family, Model, ModelConfig, ServiceName, Treatment, generate};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "a global allocator cannot be written without")]
// SAFETY: every call is handed on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_thousand_services_of_ten_endpoints_fit_into_16_mib() {
    let before = LIVE.load(Ordering::Relaxed);
    let used = || LIVE.load(Ordering::Relaxed) - before;
    let config = ModelConfig {
        node_name: "node-0".to_owned(),
        ..ModelConfig::default()
    };
    let mut model = Model::new(config);

    let begun = Instant::now();
    for event in generate::uniform(10_000, 10) {
        assert!(model.apply(event).is_empty());
    }
    let filled = begun.elapsed();
    let pending = used();
    let changes = model.take_changes();
    assert_eq!(changes.services.len(), 10_000);
    drop(changes);
    let settled = used();
    // What it says of itself lacks the maps' nodes and the counts of shared objects.
    let said = model.bytes();
    assert!((said..said * 3 / 2).contains(&settled), "{said}, {settled}");

    let begun = Instant::now();
    let mut endpoints = 0;
    for service in model.services() {
        for frontend in model.frontends(service, Family::V4) {
            let Treatment::Forward {
                endpoints: chosen, ..
            } = frontend.treatment
            else {
                panic!("{service} forwards nothing")
            };
            endpoints += chosen.len();
        }
    }
    let decided = begun.elapsed();
    assert_eq!(endpoints, 100_000);

    println!(
        "settled {settled} B, with changes pending {pending} B; filled in {filled:?}, decided in {decided:?}"
    );
    assert!(settled < 16 << 20, "{settled} bytes");
    assert!(pending < 16 << 20, "{pending} bytes");
    let time = filled + decided;
    assert!(time < Duration::from_secs(20), "{time:?}");

    for i in 0..10_000 {
        let (namespace, name) = ("default".to_owned(), format!("svc-{i}"));
        model.apply(lb_model::said::Event::ServiceGone {
            namespace: namespace.clone(),
            name,
        });
        let name = format!("svc-{i}-x7k2p");
        model.apply(lb_model::said::Event::SliceGone { namespace, name });
    }
    model.take_changes();
    assert_eq!(model.bytes(), 0);
    assert!(
        model
            .frontends(&ServiceName::new("default", "svc-1"), Family::V4)
            .is_empty()
    );
    assert!(used() < 4096, "{} bytes are left of nothing", used());
}
