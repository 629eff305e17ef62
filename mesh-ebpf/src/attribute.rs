//! New cgroups: attributed when they are created, before a process can be in them.
//!
//! Record layout of the tracepoints: <https://docs.kernel.org/trace/events.html>, fields of
//! `cgroup:cgroup_mkdir` as in `include/trace/events/cgroup.h` (class `cgroup`): after the
//! common 8 bytes `int root`, `int level`, `u64 id`, `__data_loc char[] path`.

use core::ffi::c_void;
use core::ptr::null_mut;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_loop, generated};
use aya_ebpf::programs::TracePointContext;
use aya_log_ebpf::warn;
use mesh_common::{
    CgroupIdentity, Counter, END, Glob, MAX_PATH, MAX_PATTERN, Step, Subject, UnitScan, glob_step,
    global, selector_kind,
};

use crate::count;
use crate::ctx;
use crate::maps::{CGROUPS, HEADERS, ROOT, ROOT_LENGTH, SELECTORS, WALK};

const ROOT_AT: usize = 8;
const ID_AT: usize = 16;
const PATH_AT: usize = 24;
/// How many steps a match may take before it is given up and the cgroup left unknown.
const MAX_STEPS: u32 = 1024;

#[inline(always)]
fn field<T: Copy>(ctx: &TracePointContext, offset: usize) -> T {
    ctx::field(ctx.as_ptr(), offset)
}

/// Whether the record is about the cgroup2 hierarchy, which is number 0. Ids of other
/// hierarchies are from other number spaces.
#[inline(always)]
fn is_cgroup2(ctx: &TracePointContext) -> bool {
    field::<u32>(ctx, ROOT_AT) == 0
}

/// Attributes the new cgroup under both policy slots.
#[inline(always)]
pub(crate) fn created(ctx: &TracePointContext) {
    if !is_cgroup2(ctx) {
        return;
    }
    let ours = read_path(ctx).is_some_and(|walk| walk.below_root());
    if !ours {
        return;
    }
    find_unit();
    let id: u64 = field(ctx, ID_AT);
    let mut identity = CgroupIdentity::default();
    identity.subject[0] = subject(0);
    identity.subject[1] = subject(1);
    if CGROUPS.insert(id, identity, 0).is_err() {
        count::own(Counter::CgroupsDropped);
        warn!(
            ctx,
            "no room to remember cgroup {}: its calls to protected services fail", id
        );
    }
}

/// Forgets a cgroup that is being removed.
#[inline(always)]
pub(crate) fn removed(ctx: &TracePointContext) {
    if is_cgroup2(ctx) {
        let id: u64 = field(ctx, ID_AT);
        // Absent if it was never remembered.
        let _ = CGROUPS.remove(id);
    }
}

/// Starts a walk with the path of the record; `None` for a path that is too long.
#[inline(always)]
fn read_path<'a>(ctx: &TracePointContext) -> Option<&'a mut Walk> {
    let location: u32 = field(ctx, PATH_AT);
    let offset = (location & 0xffff) as usize;
    let walk = Walk::current()?;
    let source = ctx.as_ptr().wrapping_byte_add(offset);
    let path = walk.path.as_mut_ptr().cast();
    // SAFETY: the buffer is of the size given; the helper checks the source.
    let copied = unsafe { generated::bpf_probe_read_kernel_str(path, MAX_PATH as u32, source) };
    // What was copied counts the terminating NUL; a full buffer may have been cut.
    if copied > 1 && copied < MAX_PATH as i64 {
        walk.length = copied as u32 - 1;
        return Some(walk);
    }
    count::own(Counter::CgroupsDropped);
    None
}

/// A walk over the selectors of one slot.
///
/// It lives in a map and not on the stack, so that the verifier does not follow the values
/// through every step of every match. Callbacks of `bpf_loop` change it: whoever calls that
/// looks it up again afterwards, for the compiler takes a `&mut` to be the only way there.
#[repr(C)]
pub(crate) struct Walk {
    path: [u8; MAX_PATH],
    /// Length of the path.
    length: u32,
    slot: u32,
    /// Span of the system unit in the path; empty if there is none.
    unit_start: u32,
    unit_end: u32,
    /// Deepest match so far: where it ends, and whom it stands for.
    depth: u32,
    subject: u32,
    /// The selector being matched, the span it is matched in, and how far that is.
    selector: u32,
    start: u32,
    end: u32,
    outcome: u32,
    glob: Glob,
    scan: UnitScan,
}

const NO_MATCH: u32 = 0;
const MATCH: u32 = 1;
const UNDECIDED: u32 = 2;

impl Walk {
    /// The walk, until the next `bpf_loop`.
    #[inline(always)]
    fn current<'a>() -> Option<&'a mut Self> {
        // SAFETY: this CPU's value; tracepoint programs neither migrate nor nest.
        WALK.get_ptr_mut(0).map(|walk| unsafe { &mut *walk })
    }

    /// Byte `at` of the path, past the end from `end` on.
    #[inline(always)]
    fn byte(&self, at: u32, end: u32) -> u16 {
        // `end` never exceeds the buffer; the mask tells the verifier.
        if at < end {
            u16::from(self.path[at as usize % MAX_PATH])
        } else {
            END
        }
    }

    /// Whether the path is below the cgroup the mesh is limited to.
    #[inline(always)]
    fn below_root(&self) -> bool {
        let root_length = ROOT_LENGTH.load();
        for at in 0..global::ROOT_MAX as u32 {
            if at >= root_length {
                break;
            }
            let root: u8 = ctx::field(&raw const ROOT, at as usize);
            if self.byte(at, self.length) != u16::from(root) {
                return false;
            }
        }
        let next = self.byte(root_length, self.length);
        next == u16::from(b'/') || next == END
    }
}

/// Finds the system unit of the path.
#[inline(always)]
fn find_unit() {
    if let Some(walk) = Walk::current() {
        walk.unit_start = 0;
        walk.unit_end = 0;
        walk.scan = UnitScan::from(ROOT_LENGTH.load());
    }
    // SAFETY: the callback has the signature the helper calls and uses no context.
    unsafe { bpf_loop(MAX_PATH as u32, scan_step as *mut c_void, null_mut(), 0) };
}

/// The subject of the path under a slot's selectors.
#[inline(always)]
fn subject(slot: u32) -> u32 {
    let Some(header) = HEADERS.get(slot) else {
        return Subject::UNKNOWN.0;
    };
    if let Some(walk) = Walk::current() {
        walk.slot = slot;
        walk.depth = 0;
        walk.subject = Subject::HOST.0;
    }
    let selectors = header.selectors;
    // SAFETY: the callback has the signature the helper calls and uses no context.
    let walked = unsafe { bpf_loop(selectors, try_selector as *mut c_void, null_mut(), 0) };
    match Walk::current() {
        Some(walk) if walked >= 0 => walk.subject,
        _ => Subject::UNKNOWN.0,
    }
}

/// One step of the search for the unit; returns 1 when it is over.
extern "C" fn scan_step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = Walk::current() else {
        return 1;
    };
    let byte = walk.byte(walk.scan.at, walk.length);
    let outcome = walk.scan.step(byte);
    if outcome == Step::Match {
        walk.unit_start = walk.scan.start;
        walk.unit_end = walk.scan.at;
    }
    i64::from(outcome != Step::More)
}

/// Holds one selector against the path; returns 1 to end the walk.
extern "C" fn try_selector(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = Walk::current() else {
        return 1;
    };
    let Some(selector) = SELECTORS.get_value(walk.slot, &index) else {
        return 0;
    };
    if selector.kind == selector_kind::UNIT {
        walk.start = walk.unit_start;
        walk.end = walk.unit_end;
    } else {
        walk.start = ROOT_LENGTH.load();
        walk.end = walk.length;
    }
    if walk.end == 0 {
        return 0;
    }
    walk.selector = index;
    walk.glob = Glob::default();
    walk.outcome = UNDECIDED;
    // SAFETY: as in `subject`.
    unsafe { bpf_loop(MAX_STEPS, step as *mut c_void, null_mut(), 0) };
    match Walk::current() {
        Some(walk) => settle(walk, selector.subject),
        None => 1,
    }
}

/// Takes what a match found into account.
#[inline(always)]
fn settle(walk: &mut Walk, subject: u32) -> i64 {
    if walk.outcome == UNDECIDED {
        // Too many steps: nobody, rather than somebody it may not be.
        walk.subject = Subject::UNKNOWN.0;
        return 1;
    }
    let depth = walk.start + walk.glob.text;
    if walk.outcome == MATCH && depth > walk.depth {
        walk.depth = depth;
        walk.subject = subject;
    }
    0
}

/// One step of a match; returns 1 when it is decided.
extern "C" fn step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = Walk::current() else {
        return 1;
    };
    let Some(selector) = SELECTORS.get_value(walk.slot, &walk.selector) else {
        return 1;
    };
    let mut glob = walk.glob;
    let at = glob.pattern;
    let mut here = END;
    if at < u32::from(selector.length) && at < MAX_PATTERN as u32 {
        here = u16::from(selector.pattern[at as usize]);
    }
    let there = walk.byte(walk.start.wrapping_add(glob.text), walk.end);
    let star = walk.byte(walk.start.wrapping_add(glob.star_text), walk.end);
    let outcome = match glob_step(&mut glob, here, there, star) {
        Step::More => UNDECIDED,
        Step::Match => MATCH,
        Step::NoMatch => NO_MATCH,
    };
    walk.glob = glob;
    walk.outcome = outcome;
    i64::from(outcome != UNDECIDED)
}
