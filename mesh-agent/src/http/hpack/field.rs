//! What fields mean here.

use mesh_common::http::Method;

use super::HpackError;

/// A header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `:method`.
    Method(Method),
    /// `:status`.
    Status(u16),
    /// `grpc-status`; `None` for a value that the protocol does not have.
    Grpc(Option<u8>),
    /// Any other.
    Other,
}

/// The name of a header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Status,
    Grpc,
    Other,
}

impl Name {
    pub(super) fn new(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":status" => Self::Status,
            b"grpc-status" => Self::Grpc,
            _ => Self::Other,
        }
    }
}

impl Field {
    /// # Errors
    ///
    /// It is a `:status` without a status.
    pub(super) fn new(name: Name, value: &[u8]) -> Result<Self, HpackError> {
        Ok(match name {
            Name::Method => Self::Method(method(value)),
            Name::Status => Self::Status(status(value).ok_or(HpackError::Malformed)?),
            Name::Grpc => Self::Grpc(grpc_status(value)),
            Name::Other => Self::Other,
        })
    }

    pub(super) fn name(self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Status(_) => Name::Status,
            Self::Grpc(_) => Name::Grpc,
            Self::Other => Name::Other,
        }
    }
}

fn method(value: &[u8]) -> Method {
    let named = Method::ALL.iter().find(|m| m.name().as_bytes() == value);
    named.copied().unwrap_or(Method::Other)
}

/// Three digits, as RFC 9110 has them.
fn status(value: &[u8]) -> Option<u16> {
    let [class @ b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] = value else {
        return None;
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    Some(digit(*class) * 100 + digit(value[1]) * 10 + digit(value[2]))
}

/// The highest that gRPC has.
const MOST_GRPC: u8 = 16;

fn grpc_status(value: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(value).ok()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| is_number && *number <= MOST_GRPC)
}

/// A field of RFC 7541, appendix A.
pub(super) fn of_static_table(index: u32) -> Field {
    match index {
        2 => Field::Method(Method::Get),
        3 => Field::Method(Method::Post),
        8..=14 => Field::Status([200, 204, 206, 304, 400, 404, 500][index as usize - 8]),
        _ => Field::Other,
    }
}

/// The name of such a field, and its length.
pub(super) fn name_of_static_table(index: u32) -> (Name, u32) {
    let name = match index {
        2 | 3 => Name::Method,
        8..=14 => Name::Status,
        _ => Name::Other,
    };
    let length = LENGTHS.get(index as usize - 1).copied();
    (name, length.unwrap_or_default().into())
}

/// Lengths of the names of RFC 7541, appendix A.
const LENGTHS: [u8; super::STATIC as usize] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];
