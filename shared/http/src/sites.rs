//! Requests that a browser was talked into: by a form on another site, or by a name that leads here.
//!
//! A program that is no browser sends none of these headers and is not concerned. What a browser says in them it does
//! not let a page change (Fetch Standard, forbidden request-headers).

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Method, Uri, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request may change something here: it comes from this site's own page, or from no page at all.
pub(crate) fn is_own(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return true;
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // Another port of this machine is the same site, and another program.
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Which names lead here.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// None of any name is refused.
    any: bool,
    names: Vec<String>,
}

impl Hosts {
    /// Where names are configured, those; else, where `is_open` (nobody has to show a token, and nothing in front looks at
    /// the name), this machine's own; else any. The machine's own addresses are always among them.
    pub(crate) fn new(names: &[String], is_open: bool) -> Self {
        let names: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { any: names.is_empty() && !is_open, names }
    }

    /// Whether every name by which the request calls this server is one of them.
    pub(crate) fn know(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.any {
            return true;
        }
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let hosts = headers.get_all(header::HOST).into_iter().map(|host| host.as_bytes());
        authority.into_iter().chain(hosts).all(|host| self.knows(host))
    }

    fn knows(&self, host: &[u8]) -> bool {
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return address.to_canonical().is_loopback();
        }
        name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        of.iter().map(pair).collect()
    }

    #[test]
    fn only_the_own_page_and_programs_may_change_something() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://a:1"), ("host", "a:1")], false),
            (&[("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080")], true),
            (&[("origin", "http://127.0.0.1:3000"), ("host", "127.0.0.1:8080")], false),
            (&[("origin", "https://evil.example"), ("host", "127.0.0.1:8080")], false),
            (&[("origin", "null"), ("host", "127.0.0.1:8080")], false),
            (&[("origin", "https://duet.example")], false),
        ];
        for (of, is_it) in cases {
            assert_eq!(is_own(&Method::POST, &headers(of)), *is_it, "{of:?}");
            assert_eq!(is_own(&Method::DELETE, &headers(of)), *is_it, "{of:?}");
            assert!(is_own(&Method::GET, &headers(of)), "{of:?}");
        }
    }

    #[test]
    fn a_foreign_name_that_leads_here_is_not_known() {
        let known = |hosts: &Hosts, host: &'static str| {
            hosts.know(&Uri::from_static("/"), &headers(&[("host", host)]))
        };
        let open = Hosts::new(&[], true);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost:1",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:8080",
            "localhost.",
        ] {
            assert!(known(&open, host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "192.0.2.1:8080",
            "localhost.evil.example",
            "",
            "::1:x",
        ] {
            assert!(!known(&open, host), "{host}");
        }
        let named = Hosts::new(&["Duet.example.org".into()], false);
        assert!(known(&named, "duet.example.org:443") && known(&named, "127.0.0.1"));
        assert!(!known(&named, "evil.example"));
        assert!(known(&Hosts::new(&[], false), "evil.example"));
        // A request without any name comes from no browser; a full address in the first line counts as one.
        assert!(open.know(&Uri::from_static("/"), &HeaderMap::new()));
        assert!(
            !open.know(
                &Uri::from_static("http://evil.example/"),
                &headers(&[("host", "localhost")])
            )
        );
    }
}
