//! `/whoami`, `/login` and `/logout`: for the page, which cannot keep a token.

use actix_web::HttpRequest;
use serde::{Deserialize, Serialize};

use super::access::{Access, Holder};
use super::{Answer, Answered};
use crate::config::Scope;

/// The answer to `/whoami`, a login and a logout.
#[derive(Serialize)]
struct WhoAmI<'a> {
    /// The rights of the request; null if it has none.
    scope: Option<Scope>,
    /// The name of the token; null without one.
    name: Option<&'a str>,
    /// True if reading needs a token.
    login_required: bool,
}

/// The body of a login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: String,
}

pub(super) fn who_am_i(access: &Access, holder: Option<&Holder>) -> Answer {
    let login_required = access.login_required();
    let free = (!login_required).then_some(Scope::Read);
    Answer::ok(&WhoAmI {
        scope: holder.map(|holder| holder.scope).or(free),
        name: holder.map(|holder| holder.name.as_str()),
        login_required,
    })
}

pub(super) fn log_in(access: &Access, request: &HttpRequest, login: &Login) -> Answered {
    let (holder, cookie) = access.log_in(&login.token, request)?;
    Ok(who_am_i(access, Some(holder)).header("set-cookie", cookie))
}

pub(super) fn log_out(access: &Access, request: &HttpRequest) -> Answer {
    who_am_i(access, None).header("set-cookie", access.log_out(request))
}
