//! Which requests over TCP may be a browser's on behalf of somebody else's page.
//!
//! A page anywhere can make a browser send requests to 127.0.0.1, and by a name that it makes
//! resolve to 127.0.0.1 (DNS rebinding) even read the answers. The name is then the `Host` of the
//! request; and browsers say from what kind of page a request comes (Fetch Metadata).

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{HOST, HeaderMap};
use hyper::{StatusCode, Uri};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// A sentence for whoever meant no harm.
    pub(super) why: String,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A page that somebody may follow a link to.
    Page,
    /// What only the page itself asks for, and programs that are no browsers.
    Data,
}

/// Refuses what somebody else's page may be behind. `names` are those of this node.
pub(super) fn check(
    what: What,
    uri: &Uri,
    headers: &HeaderMap,
    names: &[Arc<str>],
) -> Result<(), Refused> {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri
        .authority()
        .map_or(header, |authority| Some(authority.as_str()));
    if !host.is_some_and(|host| is_ours(host, names)) {
        return Err(Refused {
            status: StatusCode::MISDIRECTED_REQUEST,
            why: wrong_host(names),
        });
    }
    if is_foreign(what, headers) {
        return Err(Refused {
            status: StatusCode::FORBIDDEN,
            why: "this is not for the pages of other sites".into(),
        });
    }
    Ok(())
}

fn wrong_host(names: &[Arc<str>]) -> String {
    let names = names.iter().map(|name| format!(", {name}"));
    let names: String = names.collect();
    format!("the request is for another host; ask by an address, or as localhost{names}")
}

/// Whether a host is named that nobody can make a name of theirs.
fn is_ours(host: &str, names: &[Arc<str>]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return port && address.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6());
        }
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    name.parse::<std::net::Ipv4Addr>().is_ok()
        || is("localhost")
        || names.iter().any(|known| is(known))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a browser says that the request comes from another site's page.
fn is_foreign(what: What, headers: &HeaderMap) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match header("sec-fetch-site") {
        None | Some("same-origin" | "none") => false,
        Some(_) => {
            let followed = header("sec-fetch-mode") == Some("navigate")
                && header("sec-fetch-dest") == Some("document");
            !(what == What::Page && followed)
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn ask(what: What, headers: &[(&'static str, &'static str)]) -> u16 {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let checked = check(what, &Uri::from_static("/"), &headers, &["edge-1".into()]);
        checked.map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_names_that_nobody_else_can_have() {
        for (host, expected) in [
            ("127.0.0.1:15020", 200),
            ("127.0.0.1", 200),
            ("[::1]:15020", 200),
            ("[::1]", 200),
            ("localhost:8080", 200),
            ("LOCALHOST", 200),
            ("edge-1:15020", 200),
            ("edge-1.evil.example", 421),
            ("evil.example:15020", 421),
            ("127.0.0.1.evil.example", 421),
            ("localhost.evil.example", 421),
            ("[evil.example]", 421),
            ("[::1]evil.example", 421),
            ("127.0.0.1:15020@evil.example", 421),
            ("::1", 421),
            ("0x7f000001", 421),
            ("", 421),
        ] {
            assert_eq!(ask(What::Data, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(ask(What::Data, &[]), 421);
    }

    #[test]
    fn other_sites_may_link_to_the_page_and_no_more() {
        let host = ("host", "localhost");
        let site = |site| ("sec-fetch-site", site);
        let link = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let frame = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        for from in ["cross-site", "same-site", "something-new"] {
            assert_eq!(ask(What::Data, &[host, site(from)]), 403);
            assert_eq!(ask(What::Data, &[host, site(from), link[0], link[1]]), 403);
            assert_eq!(ask(What::Page, &[host, site(from)]), 403);
            assert_eq!(
                ask(What::Page, &[host, site(from), frame[0], frame[1]]),
                403
            );
            assert_eq!(ask(What::Page, &[host, site(from), link[0], link[1]]), 200);
        }
        for from in ["same-origin", "none"] {
            assert_eq!(ask(What::Data, &[host, site(from)]), 200);
            assert_eq!(ask(What::Page, &[host, site(from)]), 200);
        }
    }
}
