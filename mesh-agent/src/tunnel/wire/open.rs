//! OPEN: which flow the client asks for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::WireError;

/// Longest version label, bytes.
pub const MAX_VERSION: usize = 63;

/// Bit of an extension's type that forbids to skip it.
const CRITICAL: u16 = 0x8000;

/// What the client asks the server for. The destination service is the identity that the server
/// has proven, and the caller is the one that the client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The service's port that was called.
    pub port: u16,
    /// The endpoint as the policy declares it.
    pub endpoint: SocketAddr,
    /// The application's own address, for records only: nothing is granted for it.
    pub client: SocketAddr,
    /// Label of the endpoint's version; empty: none.
    pub version: Box<str>,
    /// The first critical extension that is not known: the flow is refused.
    pub unknown: Option<u16>,
}

impl Open {
    /// Appends the fields, without extensions.
    ///
    /// # Errors
    ///
    /// The version label is too long or has control characters.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let label = self.version.as_bytes();
        if !is_label(&self.version) {
            return Err(WireError::Label);
        }
        out.extend_from_slice(&self.port.to_be_bytes());
        push_address(out, self.endpoint);
        push_address(out, self.client);
        out.push(label.len() as u8);
        out.extend_from_slice(label);
        Ok(())
    }

    /// Reads a whole frame's payload.
    ///
    /// # Errors
    ///
    /// It is cut short, or the label is none.
    pub fn decode(mut body: &[u8]) -> Result<Self, WireError> {
        let fields = &mut body;
        let port = u16::from_be_bytes(take(fields).ok_or(WireError::Open)?);
        let endpoint = take_address(fields).ok_or(WireError::Open)?;
        let client = take_address(fields).ok_or(WireError::Open)?;
        let [length] = take(fields).ok_or(WireError::Open)?;
        let label = take_slice(fields, length.into()).ok_or(WireError::Open)?;
        let version = std::str::from_utf8(label).map_err(|_utf8| WireError::Label)?;
        if !is_label(version) {
            return Err(WireError::Label);
        }
        Ok(Self {
            port,
            endpoint,
            client,
            version: version.into(),
            unknown: unknown_extension(body)?,
        })
    }
}

/// The first critical extension among `body`; no extension is known yet.
///
/// # Errors
///
/// An extension is cut short.
pub(super) fn unknown_extension(mut body: &[u8]) -> Result<Option<u16>, WireError> {
    let mut first = None;
    while !body.is_empty() {
        let kind = u16::from_be_bytes(take(&mut body).ok_or(WireError::Open)?);
        let length = u16::from_be_bytes(take(&mut body).ok_or(WireError::Open)?);
        take_slice(&mut body, length.into()).ok_or(WireError::Open)?;
        if kind & CRITICAL != 0 {
            first = first.or(Some(kind));
        }
    }
    Ok(first)
}

fn is_label(text: &str) -> bool {
    text.len() <= MAX_VERSION && !text.contains(char::is_control)
}

fn push_address(out: &mut Vec<u8>, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn take_address(fields: &mut &[u8]) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(take::<16>(fields)?);
    let port = u16::from_be_bytes(take(fields)?);
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn take<const N: usize>(fields: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = fields.split_first_chunk()?;
    *fields = rest;
    Some(*head)
}

fn take_slice<'b>(fields: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (head, rest) = fields.split_at_checked(length)?;
    *fields = rest;
    Some(head)
}
