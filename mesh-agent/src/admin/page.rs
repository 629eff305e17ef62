//! The page: files that are compiled in.

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asset {
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: &'static [u8],
}

/// What a browser may do with the page: load its own files and ask its own server, no more.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself.
pub(super) static INDEX: Asset = Asset {
    path: "/",
    content_type: "text/html; charset=utf-8",
    body: include_bytes!("../../assets/index.html"),
};

macro_rules! assets {
    ($($name:literal $content_type:literal),* $(,)?) => {
        &[$(Asset {
            path: concat!("/page/", $name),
            content_type: $content_type,
            body: include_bytes!(concat!("../../assets/", $name)),
        }),*]
    };
}

/// What the page needs.
static ASSETS: &[Asset] = assets![
    "style.css" "text/css; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "app.js" "text/javascript; charset=utf-8",
    "dom.js" "text/javascript; charset=utf-8",
    "format.js" "text/javascript; charset=utf-8",
    "layout.js" "text/javascript; charset=utf-8",
    "map.js" "text/javascript; charset=utf-8",
    "panel.js" "text/javascript; charset=utf-8",
    "tables.js" "text/javascript; charset=utf-8",
];

/// The file at a path, compared byte for byte.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// Whether a client wants to see the page rather than a text.
pub(super) fn is_wanted(accept: Option<&str>) -> bool {
    let types = accept.into_iter().flat_map(|accept| accept.split(','));
    types
        .map(|part| part.split(';').next().unwrap_or_default().trim())
        .any(|name| name.eq_ignore_ascii_case("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_for_who_asks_for_html() {
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/plain"), false),
            (Some("text/html"), true),
            (Some("application/xml;q=0.9, TEXT/HTML;q=0.8,*/*"), true),
            (Some("text/html5"), false),
        ] {
            assert_eq!(is_wanted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        let all = ASSETS.iter().chain([&INDEX]);
        let bytes: usize = all.clone().map(|asset| asset.body.len()).sum();
        assert!(bytes < 100_000, "{bytes} bytes");
        for asset in all {
            let text = std::str::from_utf8(asset.body).expect("UTF-8");
            let without = text.replace("http://www.w3.org/", "");
            for far in [
                "http://",
                "https://",
                "innerHTML",
                "eval(",
                "document.write",
            ] {
                assert!(!without.contains(far), "{}: {far}", asset.path);
            }
        }
    }
}
