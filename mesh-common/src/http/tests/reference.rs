//! What httparse makes of the same bytes, with framing on top of it in the plainest way.

extern crate std;

use std::vec::Vec;

/// A list of what was read, and whether everything up to the end could be.
type Outcome<T> = (Vec<T>, bool);

enum Body {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// How long the body of a message is; `None` if that is not certain.
fn body(headers: &[httparse::Header<'_>], version: u8, otherwise: Body) -> Option<Body> {
    let named = |name: &'static str| {
        let of_name = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        headers.iter().filter(of_name).map(|header| header.value)
    };
    let mut length = None;
    for value in named("content-length") {
        let text = core::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: usize = text.parse().ok().filter(|_| digits)?;
        if length.replace(value).is_some_and(|other| other != value) {
            return None;
        }
    }
    let codings: Vec<_> = named("transfer-encoding").collect();
    match (&codings[..], length) {
        ([], None) => Some(otherwise),
        ([], Some(length)) => Some(Body::Length(length)),
        ([one], None) if version == 1 => {
            let text = core::str::from_utf8(one).ok()?.trim_matches([' ', '\t']);
            text.eq_ignore_ascii_case("chunked")
                .then_some(Body::Chunked)
        }
        _ => None,
    }
}

/// What is left behind a body; `Ok(None)` if the body goes on, `Err` if it is broken.
fn behind<'a>(mut bytes: &'a [u8], body: &Body) -> Result<Option<&'a [u8]>, ()> {
    match body {
        Body::None => return Ok(Some(bytes)),
        Body::Length(length) => return Ok(bytes.get(*length..)),
        Body::UntilClose => return Ok(None),
        Body::Chunked => {}
    }
    loop {
        let httparse::Status::Complete((used, size)) =
            httparse::parse_chunk_size(bytes).or(Err(()))?
        else {
            return Ok(None);
        };
        bytes = &bytes[used..];
        if size == 0 {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            return match httparse::parse_headers(bytes, &mut headers).or(Err(()))? {
                httparse::Status::Complete((used, _)) => Ok(Some(&bytes[used..])),
                httparse::Status::Partial => Ok(None),
            };
        }
        let Some(rest) = usize::try_from(size)
            .ok()
            .and_then(|size| bytes.get(size..))
        else {
            return Ok(None);
        };
        match rest {
            [b'\r', b'\n', rest @ ..] => bytes = rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(()),
        }
    }
}

/// Whether nothing is wrong with the beginning of a head, as far as that can be told by adding an
/// end to it.
fn begins_well(bytes: &[u8], response: bool) -> bool {
    let ended = [bytes, b"\r\n\r\n"].concat();
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let (parsed, version, headers) = if response {
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&ended);
        if response.code.is_some_and(|code| code < 100) {
            return false;
        }
        (parsed, response.version, response.headers)
    } else {
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&ended);
        (parsed, request.version, request.headers)
    };
    let whole = bytes.is_empty() || parsed.is_ok_and(|status| status.is_complete());
    whole && body(headers, version.unwrap_or(1), Body::None).is_some()
}

/// Whether a method is longer than any that is read.
fn is_long(bytes: &[u8]) -> bool {
    const LONGEST: usize = 32;
    let is_end = |byte: &u8| *byte == b' ';
    bytes.iter().position(is_end).unwrap_or(bytes.len()) > LONGEST
}

/// Methods of the requests whose heads are complete.
pub(super) fn requests(mut bytes: &[u8]) -> Outcome<&str> {
    let mut methods = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let used = match request.parse(bytes) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => {
                let well = begins_well(bytes, false) && !is_long(bytes);
                return (methods, well);
            }
            Err(_) => return (methods, false),
        };
        if is_long(bytes) {
            return (methods, false);
        }
        methods.push(request.method.expect("complete"));
        let version = request.version.expect("complete");
        let Some(body) = body(request.headers, version, Body::None) else {
            return (methods, false);
        };
        match behind(&bytes[used..], &body) {
            Ok(Some(rest)) => bytes = rest,
            Ok(None) => return (methods, true),
            Err(()) => return (methods, false),
        }
    }
}

/// Status codes of the responses to `methods` whose heads are complete, without interim ones.
pub(super) fn responses(mut bytes: &[u8], methods: &[&str]) -> Outcome<u16> {
    let mut codes = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let used = match response.parse(bytes) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return (codes, begins_well(bytes, true)),
            Err(_) => return (codes, false),
        };
        let code = response.code.expect("complete");
        let version = response.version.expect("complete");
        let framing = body(response.headers, version, Body::UntilClose);
        let Some(framing) = framing.filter(|_| code >= 100) else {
            return (codes, false);
        };
        if code < 200 && code != 101 {
            bytes = &bytes[used..];
            continue;
        }
        let Some(method) = methods.get(codes.len()) else {
            return (codes, false);
        };
        codes.push(code);
        if code == 101 || (*method == "CONNECT" && code < 300) {
            return (codes, false);
        }
        let bodiless = *method == "HEAD" || code == 204 || code == 304;
        let body = if bodiless { Body::None } else { framing };
        match behind(&bytes[used..], &body) {
            Ok(Some(rest)) => bytes = rest,
            Ok(None) => return (codes, true),
            Err(()) => return (codes, false),
        }
    }
}
