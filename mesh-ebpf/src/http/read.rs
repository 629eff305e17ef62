//! Reads the bytes of a packet, a window at a time.

use core::arch::asm;
use core::ffi::c_void;
use core::ptr::from_mut;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_loop, bpf_skb_load_bytes};
use mesh_common::http::{Head, HttpSocket, Method, PIECE, Progress, Stream, Unparsed, Window};
use mesh_common::http2::HeadRecord;

use super::frames;
use super::segment::Segment;
use super::tally;
use crate::atomic;
use crate::maps::HTTP_WORK;

/// Most steps that one packet may take. A step looks at one byte at least, or changes what the
/// next one looks for, so that this is enough for twice what a packet can hold.
const MAX_STEPS: u32 = 1 << 17;

/// Which direction is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Requests,
    Responses,
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl From<Side> for mesh_common::http::Side {
    #[inline(always)]
    fn from(side: Side) -> Self {
        match side {
            Side::Requests => Self::Requests,
            Side::Responses => Self::Responses,
        }
    }
}

/// Room to read one packet. It lives in a map and not on the stack, so that the verifier does not
/// follow its values through every step.
#[repr(C)]
pub(crate) struct Work {
    /// Whether it is in use, by what is sent.
    taken: u64,
    window: Window,
    /// When the packet was seen, nanoseconds since boot.
    pub(super) now: u64,
    /// What is left of the packet, and where that is.
    pub(super) at: u32,
    pub(super) left: u32,
    /// Whether all of it was read, or what can be.
    pub(super) done: u32,
    _pad: u32,
    /// The head that the window begins with.
    head: Head,
    /// What the agent is told.
    pub(super) record: HeadRecord,
}

impl Work {
    /// How deep packets may interrupt one another on one CPU.
    pub(crate) const COUNT: u32 = 4;

    /// Room that nobody uses on this CPU.
    #[inline(always)]
    fn claim<'a>(side: Side) -> Option<&'a mut Self> {
        if side == Side::Requests {
            // What arrives is looked at with softirqs disabled: nothing interrupts it that needs
            // the same room.
            let work = HTTP_WORK.get_ptr_mut(0)?;
            // SAFETY: a map value that lives while the program runs.
            return Some(unsafe { &mut *work });
        }
        for index in 1..Self::COUNT {
            let work = HTTP_WORK.get_ptr_mut(index)?;
            // SAFETY: a map value that lives while the program runs.
            let taken = unsafe { &raw mut (*work).taken };
            // SAFETY: as above.
            if unsafe { atomic::exchange(taken, 1) } == 0 {
                // SAFETY: nobody else has claimed it.
                return Some(unsafe { &mut *work });
            }
        }
        None
    }
}

/// What the steps are told.
#[repr(C)]
pub(super) struct Turn {
    pub(super) skb: *mut __sk_buff,
    pub(super) socket: *mut HttpSocket,
    pub(super) work: *mut Work,
}

/// Reads what `segment` holds from its byte `from` on.
#[inline(always)]
pub(super) fn read(
    skb: *mut __sk_buff,
    socket: &mut HttpSocket,
    segment: &Segment,
    from: u32,
    (side, protocol): (Side, Protocol),
) {
    let Some(work) = Work::claim(side) else {
        tally::over(socket, Unparsed::Busy);
        return;
    };
    // SAFETY: the helper has no preconditions.
    work.now = unsafe { bpf_ktime_get_ns() };
    work.at = segment.at + from;
    work.left = segment.length.saturating_sub(from);
    work.done = 0;
    if protocol == Protocol::Http1 {
        begin(skb, socket, work, side);
    }
    if work.done == 0 {
        let mut turn = Turn {
            skb,
            socket: from_mut(socket),
            work: from_mut(work),
        };
        steps(from_mut(&mut turn).cast(), side, protocol);
    }
    if work.done == 0 {
        tally::over(socket, Unparsed::Busy);
    }
    if side == Side::Responses {
        // Only this CPU looks at it.
        // SAFETY: a field of a map value that lives while the program runs.
        unsafe { atomic::write(&raw mut work.taken, 0) };
    }
}

/// Takes the first piece of the packet, and the head that it begins with at once if it can.
#[inline(always)]
fn begin(skb: *mut __sk_buff, socket: &mut HttpSocket, work: &mut Work, side: Side) {
    let stream = match side {
        Side::Requests => &mut socket.requests,
        Side::Responses => &mut socket.responses,
    };
    if fill(skb, work, stream) == 0 && work.head.begin(stream, &work.window) {
        let mut context = from_mut(work);
        let context: *mut c_void = from_mut(&mut context).cast();
        // SAFETY: the callback has the signature the helper calls and takes a pointer to `Work`.
        unsafe { bpf_loop(Head::TURNS, head_turn as *mut c_void, context, 0) };
        stream.take(&work.head, &mut work.window, work.now);
    }
}

/// One turn over a head; returns 1 when it was the last.
extern "C" fn head_turn(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `begin` passes a pointer to work that is valid while the program runs.
    let work = unsafe { context.cast::<*mut Work>().read() };
    // SAFETY: as above.
    let work = unsafe { &mut *work };
    i64::from(work.head.turn(&work.window, index))
}

/// Takes what is left of the packet in steps.
#[inline(always)]
fn steps(turn: *mut c_void, side: Side, protocol: Protocol) {
    // A call each: the verifier has to know which callback it is.
    match (side, protocol) {
        (Side::Requests, Protocol::Http1) => walk(request_step as *mut c_void, turn),
        (Side::Responses, Protocol::Http1) => walk(response_step as *mut c_void, turn),
        (Side::Requests, Protocol::Http2) => walk(frames::request_step as *mut c_void, turn),
        (Side::Responses, Protocol::Http2) => walk(frames::response_step as *mut c_void, turn),
    }
}

#[inline(always)]
fn walk(step: *mut c_void, turn: *mut c_void) {
    // SAFETY: the callbacks have the signature the helper calls and take a `Turn`.
    unsafe { bpf_loop(MAX_STEPS, step, turn, 0) };
}

/// One step over what the client sends; returns 1 when the packet has been read.
extern "C" fn request_step(_index: u32, context: *mut c_void) -> i64 {
    let turn = context.cast::<Turn>();
    // SAFETY: `read` passes a turn whose pointers are valid while the program runs.
    let Turn { skb, socket, work } = unsafe { turn.read() };
    // SAFETY: as above.
    let socket = unsafe { &mut *socket };
    // SAFETY: as above.
    let work = unsafe { &mut *work };
    match socket.requests.step(&mut work.window, work.now) {
        Progress::MORE => 0,
        Progress::FILL => fill(skb, work, &mut socket.requests),
        Progress::REQUEST => {
            let (method, begun) = (socket.requests.method(), socket.requests.begun_ns());
            if socket.pending.push(method, begun) {
                return 0;
            }
            stop(work, socket, Unparsed::Pipeline)
        }
        _ => {
            let reason = socket.requests.reason();
            stop(work, socket, reason)
        }
    }
}

/// The same for what the server sends.
extern "C" fn response_step(_index: u32, context: *mut c_void) -> i64 {
    let turn = context.cast::<Turn>();
    // SAFETY: `read` passes a turn whose pointers are valid while the program runs.
    let Turn { skb, socket, work } = unsafe { turn.read() };
    // SAFETY: as above.
    let socket = unsafe { &mut *socket };
    // SAFETY: as above.
    let work = unsafe { &mut *work };
    match socket.responses.step(&mut work.window, work.now) {
        Progress::MORE => 0,
        Progress::FILL => fill(skb, work, &mut socket.responses),
        Progress::RESPONSE => {
            let run = socket.pending.pop();
            if run.count == 0 {
                return stop(work, socket, Unparsed::Unsolicited);
            }
            let method = Method(run.method as u8);
            socket.responses.answers(method);
            let elapsed = socket.responses.begun_ns().saturating_sub(run.begun_ns);
            tally::answered(socket, method, socket.responses.status(), elapsed);
            0
        }
        _ => {
            let reason = socket.responses.reason();
            stop(work, socket, reason)
        }
    }
}

#[inline(always)]
pub(super) fn stop(work: &mut Work, socket: &mut HttpSocket, reason: Unparsed) -> i64 {
    work.done = 1;
    tally::over(socket, reason);
    1
}

/// What of `length`, which is not 0, may be loaded at once. Old verifiers do not learn from a test
/// for 0 that a length is at least 1, but from arithmetic.
#[inline(always)]
pub(super) fn bounded<const MOST: u32>(length: u32) -> u32 {
    let mut last = opaque(length.wrapping_sub(1));
    if last >= MOST {
        last = MOST - 1;
    }
    opaque(last) + 1
}

/// Hides from the compiler where a number comes from: it leaves out tests that the verifier needs.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: moves a register to itself.
    unsafe { asm!("{number} = {number}", number = inout(reg) number) };
    number as u32
}

/// Puts the next piece of the packet into the window; returns 1 when there is none.
#[inline(always)]
fn fill(skb: *mut __sk_buff, work: &mut Work, stream: &mut Stream) -> i64 {
    let skipped = stream.pass_over(u64::from(work.left)) as u32;
    work.at += skipped;
    work.left -= skipped;
    if work.left == 0 {
        work.done = 1;
        return 1;
    }
    let piece = bounded::<{ PIECE as u32 }>(work.left);
    stream.open(&mut work.window);
    // What was kept is shorter; the mask tells the verifier.
    let kept = (work.window.end & 31) as usize;
    let room = work
        .window
        .words
        .as_mut_ptr()
        .cast::<u8>()
        .wrapping_add(kept);
    // SAFETY: the context as the kernel handed it over, and a window that has room for a piece
    // behind what was kept.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), work.at, room.cast(), piece) };
    if failed != 0 {
        return 1;
    }
    work.window.end += piece;
    work.at += piece;
    work.left -= piece;
    0
}
