//! Access control for everything that is served.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

/// The secret required to see the page, its API and the metrics. It is never printed.
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Compares hashes, so that the timing reveals nothing.
    fn fits(&self, secret: &str) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(secret))
    }
}

/// Lets a request through if it presents the token; if no token is set, if it addresses this machine by a
/// name that can't be another's: a page elsewhere may have its own name point here (DNS rebinding).
pub(super) async fn check(State(token): State<Arc<Option<Token>>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    match &*token {
        Some(token) if !shown(headers).is_some_and(|secret| token.fits(&secret)) => {
            // Browsers don't support Bearer: they ask for a name and a password, and the token is the
            // password.
            let ways = [(header::WWW_AUTHENTICATE, "Bearer, Basic realm=\"tradewind\"")];
            (StatusCode::UNAUTHORIZED, ways, "a token is required: see TRADEWIND_TOKEN\n").into_response()
        }
        None if !is_own_name(headers) => (StatusCode::FORBIDDEN, "not under this name\n").into_response(),
        _ => next.run(request).await,
    }
}

/// Refuses requests made by a page of another site; it could not read the answer, but could time it or load
/// it as a script. A link to the page may be anywhere.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    if is_of_other_site(request.headers(), request.uri().path()) {
        return (StatusCode::FORBIDDEN, "not for another site\n").into_response();
    }
    next.run(request).await
}

/// As browsers report it; other clients send nothing.
fn is_of_other_site(headers: &HeaderMap, path: &str) -> bool {
    let told = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_link = path == "/"
        && (told("sec-fetch-mode"), told("sec-fetch-dest")) == (Some("navigate"), Some("document"));
    let is_elsewhere = told("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let is_from_elsewhere = told("origin").is_some_and(|origin| {
        let from = origin.split_once("://").map(|(_, host)| host);
        !from.zip(told("host")).is_some_and(|(from, host)| from.eq_ignore_ascii_case(host))
    });
    (is_elsewhere && !is_link) || is_from_elsewhere
}

/// The secret in `Authorization: Bearer`, or the password in `Authorization: Basic`.
fn shown(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(value.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

fn is_own_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn a_token_is_shown_as_bearer_or_as_the_password_of_a_browser() {
        let token = Token::new("s3cret");
        let fits = |value: &str| {
            shown(&headers(header::AUTHORIZATION, value)).is_some_and(|secret| token.fits(&secret))
        };
        assert!(fits("Bearer s3cret"));
        assert!(fits(&format!("Basic {}", BASE64_STANDARD.encode("anyone:s3cret"))));
        assert!(!fits("Bearer s3cre"));
        assert!(!fits("Bearer "));
        assert!(!fits("s3cret"));
        assert!(!fits(&format!("Basic {}", BASE64_STANDARD.encode("s3cret"))));
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn what_another_site_asks_for_is_told_by_what_browsers_say() {
        let told = |path: &str, headers: &[(&'static str, &str)]| {
            let host = ("host", "127.0.0.1:7780");
            let headers = headers.iter().chain([&host]).map(|(name, value)| {
                (header::HeaderName::from_static(name), value.parse().expect("a header"))
            });
            is_of_other_site(&headers.collect(), path)
        };
        let own = [
            ("/metrics", &[][..]),
            ("/api/items", &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]),
            ("/api/items", &[("origin", "http://127.0.0.1:7780")]),
            ("/metrics", &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]),
            // A link in a runbook.
            (
                "/",
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
            ),
        ];
        for (path, headers) in own {
            assert!(!told(path, headers), "{path} {headers:?}");
        }
        let others = [
            ("/api/items", &[("sec-fetch-site", "cross-site")][..]),
            // Another port of this machine.
            ("/metrics", &[("sec-fetch-site", "same-site")]),
            ("/api/items", &[("origin", "http://127.0.0.1:3000")]),
            ("/api/items", &[("origin", "null")]),
            (
                "/metrics",
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ],
            ),
            (
                "/",
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
            ),
        ];
        for (path, headers) in others {
            assert!(told(path, headers), "{path} {headers:?}");
        }
    }

    #[test]
    fn only_this_machines_own_names_do_without_a_token() {
        let own = |host: &str| is_own_name(&headers(header::HOST, host));
        for host in ["localhost", "localhost:7780", "127.0.0.1:7780", "[::1]:7780", "[::1]"] {
            assert!(own(host), "{host}");
        }
        for host in ["evil.example", "evil.example:7780", "localhost.evil.example"] {
            assert!(!own(host), "{host}");
        }
    }
}
