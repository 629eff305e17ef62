//! Context fields to mesh-common types and back: the only place that knows their byte order.
//!
//! Every access is volatile and of the field's full width: the verifier rejects merged or
//! narrowed accesses to these fields.

use core::mem::offset_of;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::{Address, SocketKey};

/// Reads the field at `offset` of a context.
#[inline(always)]
pub(crate) fn field<C, T: Copy>(context: *const C, offset: usize) -> T {
    let field = context.wrapping_byte_add(offset).cast::<T>();
    // SAFETY: callers pass the context the kernel handed them and the offset and type of one
    // of its fields; the verifier rejects anything else.
    unsafe { read_volatile(field) }
}

/// Which of the context's two address fields is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The context of the `cgroup/{connect,sendmsg,recvmsg,getpeername}{4,6}` hooks.
pub(crate) struct SockAddr {
    raw: *mut bpf_sock_addr,
    family: Family,
}

impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext, family: Family) -> Self {
        Self {
            raw: ctx.sock_addr,
            family,
        }
    }

    /// The address and port in the context, IPv4 as IPv4-mapped.
    #[inline(always)]
    pub(crate) fn address(&self) -> SocketKey {
        SocketKey::new(self.ip(), self.port(), self.protocol())
    }

    #[inline(always)]
    fn ip(&self) -> Address {
        match self.family {
            Family::V4 => {
                let word: u32 = field(self.raw, offset_of!(bpf_sock_addr, user_ip4));
                Address::from_v4(word.to_ne_bytes())
            }
            Family::V6 => Address::from_words([0, 1, 2, 3].map(|index| self.ip6_word(index))),
        }
    }

    #[inline(always)]
    fn ip6_word(&self, index: usize) -> u32 {
        field(self.raw, offset_of!(bpf_sock_addr, user_ip6) + 4 * index)
    }

    /// The port, host order: the field holds it in network order in its low half.
    #[inline(always)]
    fn port(&self) -> u16 {
        let port: u32 = field(self.raw, offset_of!(bpf_sock_addr, user_port));
        u16::from_be(port as u16)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        field::<_, u32>(self.raw, offset_of!(bpf_sock_addr, protocol)) as u8
    }

    /// Replaces the address and port. An IPv6 address in an IPv4 context is not written: the
    /// compiler of policies admits no such pair.
    #[inline(always)]
    pub(crate) fn rewrite(&self, address: &Address, port: u16) {
        let bytes = &address.0;
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        match self.family {
            Family::V4 => self.write(offset_of!(bpf_sock_addr, user_ip4), word(12)),
            Family::V6 => {
                let ip6 = offset_of!(bpf_sock_addr, user_ip6);
                self.write(ip6, word(0));
                self.write(ip6 + 4, word(4));
                self.write(ip6 + 8, word(8));
                self.write(ip6 + 12, word(12));
            }
        }
        self.write(
            offset_of!(bpf_sock_addr, user_port),
            u32::from(port.to_be()),
        );
    }

    #[inline(always)]
    fn write(&self, offset: usize, word: u32) {
        let field = self.raw.wrapping_byte_add(offset).cast::<u32>();
        // SAFETY: an address or port field of the context, which these hooks may write.
        unsafe { write_volatile(field, word) }
    }

    /// Cookie of the socket's network namespace.
    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: the helper takes the context as it is.
        unsafe { bpf_get_netns_cookie(self.raw.cast()) }
    }

    /// The socket's entry in `map`, if it has one.
    #[inline(always)]
    pub(crate) fn storage<'s, T>(&self, map: &SkStorage<T>) -> Option<&'s mut T> {
        self.storage_with(map, 0)
    }

    /// The socket's entry in `map`, made if need be; `None` when there is no memory for it.
    #[inline(always)]
    pub(crate) fn storage_or_new<'s, T>(&self, map: &SkStorage<T>) -> Option<&'s mut T> {
        self.storage_with(map, BPF_SK_STORAGE_GET_F_CREATE.into())
    }

    #[inline(always)]
    fn storage_with<'s, T>(&self, map: &SkStorage<T>, flags: u64) -> Option<&'s mut T> {
        let sk: *mut bpf_sock = field(self.raw, offset_of!(bpf_sock_addr, __bindgen_anon_1));
        storage(map, sk, flags)
    }
}

/// The entry of `sk` in `map`.
///
/// The reference is to memory that other CPUs may use at the same time through the same
/// socket; the fields are plain integers and every value of them is valid.
#[inline(always)]
pub(crate) fn storage<'a, T>(
    map: &SkStorage<T>,
    sk: *mut bpf_sock,
    flags: u64,
) -> Option<&'a mut T> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: `sk` is the verifier-checked socket pointer of a context, and not null.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags) };
    // SAFETY: null, or a value of the map's value type that lives as long as the program runs.
    unsafe { value.cast::<T>().as_mut() }
}
