//! Atomic access, which `core` does not offer on this target.

use core::arch::asm;

/// Adds `value` to `*counter` and returns what was there before.
///
/// # Safety
///
/// `counter` is a map value, aligned to 8 bytes, alive while the program runs.
#[inline(always)]
pub(crate) unsafe fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    let mut before = value;
    // SAFETY: the caller's promise; the instruction is BPF_ATOMIC | BPF_ADD | BPF_FETCH.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({counter} + 0), {value})",
            counter = in(reg) counter,
            value = inout(reg) before,
        );
    }
    before
}

/// Writes `value` to `*word` and returns what was there before.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, value: u64) -> u64 {
    let mut before = value;
    // SAFETY: the caller's promise; the instruction is BPF_ATOMIC | BPF_XCHG.
    unsafe {
        asm!(
            "{value} = xchg_64({word} + 0, {value})",
            word = in(reg) word,
            value = inout(reg) before,
        );
    }
    before
}

/// Writes `value` to `*word`, behind whatever this CPU was told to write before.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub(crate) unsafe fn write(word: *mut u64, value: u64) {
    // SAFETY: the caller's promise. The compiler moves no access past it.
    unsafe {
        asm!(
            "*(u64 *)({word} + 0) = {value}",
            word = in(reg) word,
            value = in(reg) value,
        );
    }
}

/// Writes 0 to `*word`, once other CPUs see whatever was written before.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub(crate) unsafe fn release(word: *mut u64) {
    if cfg!(bpf_target_arch = "x86_64") {
        // Its writes come in order anyway, and a locked instruction would wait for them.
        // SAFETY: the caller's promise.
        unsafe { write(word, 0) };
    } else {
        // SAFETY: as above.
        unsafe { exchange(word, 0) };
    }
}

/// Adds `value` to `*counter`.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the instruction is BPF_ATOMIC | BPF_ADD.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {value}",
            counter = in(reg) counter,
            value = in(reg) value,
        );
    }
}
