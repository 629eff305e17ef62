//! Who calls.

/// Ids of those who can call: services, namespaces and the fixed ones below.
///
/// One number space, so that a rule's caller is one `u32`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(pub u32);

impl Subject {
    /// Nobody knows: the cgroup has not been seen.
    pub const UNKNOWN: Self = Self(0);
    /// Local processes of no service.
    pub const HOST: Self = Self(1);
    /// Every known caller, `"*"`.
    pub const ANY: Self = Self(2);
    /// A client outside this host's processes, known by its address only.
    pub const OUTSIDE: Self = Self(3);
    /// The first id handed out to a name.
    pub const FIRST_NAMED: u32 = 16;
}

/// Identity of a cgroup, one for each policy slot (see [`SLOTS`](crate::SLOTS)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupIdentity {
    /// The [`Subject`] in each slot.
    pub subject: [u32; 2],
}
const _: () = assert!(size_of::<CgroupIdentity>() == 8);

/// What is known of a service that calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectInfo {
    /// Subject id of the service's namespace.
    pub namespace: u32,
    /// [`subject_flag`] bits.
    pub flags: u32,
}
const _: () = assert!(size_of::<SubjectInfo>() == 8);

/// Bits of [`SubjectInfo::flags`].
pub mod subject_flag {
    /// `egress = "deny"`: leaving the mesh needs a rule.
    pub const EGRESS_DENY: u32 = 1;
}
