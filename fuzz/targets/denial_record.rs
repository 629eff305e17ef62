//! Any bytes as records of the ring buffer, one after the other, up to what people see.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_common::{DenialRecord, FlowRecord, Hook, Reason, Verdict};
use mesh_fuzz::denials::{CAPACITY, DenialView, Recent};
use mesh_fuzz::words;

fuzz_target!(|bytes: &[u8]| {
    for chunk in bytes.chunks(size_of::<FlowRecord>()) {
        let record = FlowRecord::from_bytes(chunk);
        assert_eq!(record.is_some(), chunk.len() == size_of::<FlowRecord>());
    }
    let mut recent = Recent::default();
    for chunk in bytes.chunks(size_of::<DenialRecord>()) {
        let record = DenialRecord::from_bytes(chunk);
        assert_eq!(record.is_some(), chunk.len() == size_of::<DenialRecord>());
        let Some(record) = record else {
            continue;
        };
        let view = DenialView {
            verdict: Verdict(record.verdict).name().into(),
            reason: Reason(record.reason).name().into(),
            hook: Hook(record.hook).name().into(),
            dialled: words::dialled(&record),
            protocol: words::protocol(&record),
            peer: words::peer(&record),
            comm: words::comm(&record),
            pid: record.pid,
            count: 1,
            ..DenialView::default()
        };
        assert!(view.comm.len() <= 3 * record.comm.len());
        assert!(!view.comm.contains(char::is_control));
        assert!(!view.verdict.is_empty() && !view.reason.is_empty() && !view.hook.is_empty());
        recent.record(view);
    }
    assert!(recent.list().len() <= CAPACITY);
});
