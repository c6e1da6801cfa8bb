//! `/admin/pricing`: what models cost, for who runs the gateway. Prices that are set here come before
//! the built-in ones; models that were charged for without a price get one later, and their charges
//! are booked anew.

use super::price_shapes::{
    Corrected, History, Missing, MissingBody, MissingShown, Named, Patch, PatchAll, RatesShown,
    Shown, Version, built_in, own,
};
use super::{List, Page, unexpected};
use crate::app::App;
use crate::clock;
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    AdminErrors, BodyErrors, BusyError, ModelPath, PageQuery, PathError, QueryErrors,
};
use crate::request::{self, Received};
use crate::sdk::decision::json_response;
use crate::sign_in;
use axum::extract::{Path, Request, State};
use engine::command::{Command, Outcome, Repriced, Unpriced};
use engine::directory::{Directory, UserEntry};
use engine::manage::{Manage, NewPrice};
use engine::price::{self, Price, PriceTable};
use http::StatusCode;
use persist::record::{Actor, Rates};
use persist::{Millis, Nanos};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, patch_all))
        .routes(routes!(missing))
        .routes(routes!(get, patch))
}

/// Models of one request.
const MODELS: usize = 100;

/// Is this person one who runs the gateway? The first to register is, and whoever is named in the
/// settings and has shown that the address is theirs: anybody may register with it before.
fn runs_the_gateway(config: &Config, directory: &Directory, user: &UserEntry) -> bool {
    let named = config.platform_admins.iter();
    let mut named = named.map(|address| address.trim().to_lowercase());
    let proven = user.verified_at.is_some();
    directory.first_user() == Some(user.id) || proven && named.any(|name| *name == *user.email)
}

/// The person who asks, if they run the gateway.
pub(super) async fn admit(app: &App, request: Request) -> ApiResult<(Received, Actor)> {
    let received = request::receive(request).await?;
    if sign_in::key_text(&received.headers)?.is_some() {
        return Err(ApiError::forbidden(
            "forbidden",
            "API keys may not do this; sign in",
        ));
    }
    let user = sign_in::session(app, &received)?;
    if !runs_the_gateway(&app.config, &app.directory(), &user.user) {
        return Err(ApiError::forbidden(
            "forbidden",
            "only who runs the gateway may do this: the first account, or one whose proven address \
             is in NULLRUN_PLATFORM_ADMINS",
        ));
    }
    Ok((received, Actor::User(user.user.id)))
}

fn table(app: &App) -> &PriceTable {
    &app.rebuild.prices
}

/// The built-in price of exactly this model, in any case.
fn built_in_price<'a>(app: &'a App, model: &str) -> Option<(&'a str, &'a Price)> {
    let table = table(app);
    let same = |(name, _): &(&str, &Price)| name.eq_ignore_ascii_case(model);
    table.models().find(same)
}

fn history(app: &App, model: &str) -> ApiResult<History> {
    let directory = app.directory();
    let book = directory.prices();
    let of_build = built_in_price(app, model);
    let set = book.of(model);
    if set.is_empty() && of_build.is_none() {
        return Err(ApiError::not_found("model"));
    }
    let holds = book.at(model, clock::now());
    let of_book = holds.and_then(|entry| own(model, entry));
    Ok(History {
        model_id: of_build.map_or(model, |(name, _)| name).to_owned(),
        price: of_book.or_else(|| of_build.map(|(name, price)| built_in(name, price))),
        built_in: of_build.map(|(_, price)| RatesShown::of(price)),
        history: set
            .iter()
            .map(|entry| Version {
                version: entry.version,
                rates: entry.rates.map(|rates| RatesShown::of(&rates.into())),
                effective_at: clock::rfc3339(entry.effective_at),
                created_at: clock::rfc3339(entry.created_at),
            })
            .collect(),
    })
}

/// A model's name as prices are kept under.
fn model_name(text: &str) -> String {
    price::lower(text).into_owned()
}

/// The price a patch makes of what a model cost before.
fn patched(app: &App, model: &str, patch: &Patch) -> ApiResult<NewPrice> {
    let effective_at = patch.effective_at.as_deref().map(|text| {
        clock::parse_rfc3339(text).ok_or_else(|| {
            ApiError::field(
                "effective_at",
                "effective_at must be RFC 3339, such as 2026-11-01T00:00:00Z",
            )
        })
    });
    let directory = app.directory();
    let newest = directory.prices().of(model).last();
    let before = newest.and_then(|entry| entry.rates).or_else(|| {
        let (_, price) = built_in_price(app, model)?;
        let nanos = |rate: u64| Nanos(i64::try_from(rate).unwrap_or(i64::MAX));
        Some(Rates {
            input: nanos(price.input),
            output: nanos(price.output),
            cache_read: Some(nanos(price.cache_read)),
            cache_write: Some(nanos(price.cache_write)),
            reasoning: Some(nanos(price.reasoning)),
        })
    });
    let rate = |name, patched: Option<Option<i64>>, before: Option<Nanos>| match patched {
        Some(Some(rate)) => Ok(Nanos(rate)),
        Some(None) => Err(ApiError::field(
            name,
            "input_nanos_per_mtok and output_nanos_per_mtok are null together, which takes the price \
             away, or not at all",
        )),
        None => before.ok_or_else(|| {
            ApiError::field(
                name,
                format!("{name} is needed: the model has no price yet"),
            )
        }),
    };
    let (input, output) = (patch.input_nanos_per_mtok, patch.output_nanos_per_mtok);
    let gone = input == Some(None) && output == Some(None);
    let rates = if gone {
        None
    } else {
        let may = |patched: Option<Option<i64>>, before: Option<Option<Nanos>>| {
            patched.map_or(before.flatten(), |rate| rate.map(Nanos))
        };
        Some(Rates {
            input: rate("input_nanos_per_mtok", input, before.map(|b| b.input))?,
            output: rate("output_nanos_per_mtok", output, before.map(|b| b.output))?,
            cache_read: may(
                patch.cache_read_nanos_per_mtok,
                before.map(|b| b.cache_read),
            ),
            cache_write: may(
                patch.cache_write_nanos_per_mtok,
                before.map(|b| b.cache_write),
            ),
            reasoning: may(patch.reasoning_nanos_per_mtok, before.map(|b| b.reasoning)),
        })
    };
    Ok(NewPrice {
        model: model.to_owned(),
        rates,
        effective_at: effective_at.transpose()?,
    })
}

async fn set(app: &App, actor: Actor, price: NewPrice) -> ApiResult<()> {
    let set = Manage::SetPrice { actor, price };
    app.call(Command::Manage(Box::new(set))).await?;
    Ok(())
}

/// All prices of a request, read before the first is set: what cannot be read changes nothing.
fn prices(app: &App, models: Vec<Named>, begin: Option<Millis>) -> ApiResult<Vec<NewPrice>> {
    if models.is_empty() || models.len() > MODELS {
        return Err(ApiError::field(
            "models",
            format!("models takes 1 to {MODELS} of them"),
        ));
    }
    let mut prices = Vec::with_capacity(models.len());
    for (index, named) in models.into_iter().enumerate() {
        let (model, patch) = named.split();
        let price = patched(app, &model_name(&model), &patch).and_then(|price| {
            price.check().map_err(crate::app::refused)?;
            Ok(NewPrice {
                effective_at: price.effective_at.or(begin),
                ..price
            })
        });
        prices.push(price.map_err(|error| error.with("index", index as u64))?);
    }
    Ok(prices)
}

/// What a list of prices is narrowed to.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Filter {
    /// Only models whose name holds this text, in any case.
    #[param(max_length = 100)]
    search: Option<String>,
}

/// List what models cost now, by name: built-in prices and those that were set here.
#[utoipa::path(
    get,
    path = "/api/v1/admin/pricing",
    operation_id = "list_prices",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    params(Filter, PageQuery),
    responses((status = 200, description = "Prices", body = List<Shown>), QueryErrors, AdminErrors)
)]
async fn index(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    admit(&app, request).await?;
    let page = Page::parse(query.as_deref(), &["search"])?;
    let search = page.search()?;
    let after = page.cursor::<String>()?.map(|name| model_name(&name));
    let directory = app.directory();
    let (book, now) = (directory.prices(), clock::now());
    let mut all: BTreeMap<String, Shown> = BTreeMap::new();
    for (name, price) in table(&app).models() {
        all.insert(model_name(name), built_in(name, price));
    }
    for model in book.models() {
        if let Some(shown) = book.at(model, now).and_then(|entry| own(model, entry)) {
            all.insert(model.to_string(), shown);
        }
    }
    let behind = all.into_iter().filter(|(name, _)| {
        after.as_ref().is_none_or(|after| name > after)
            && search.as_ref().is_none_or(|text| name.contains(text))
    });
    let mut shown: Vec<_> = behind.take(page.limit() + 1).map(|(_, row)| row).collect();
    let more = shown.len() > page.limit();
    shown.truncate(page.limit());
    let next = shown
        .last()
        .filter(|_| more)
        .map(|row| row.model_id.clone());
    Ok(json_response(StatusCode::OK, &List::new(shown, next)))
}

/// Set the prices of several models. Each holds from `effective_at` on, or from now.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/pricing",
    operation_id = "update_prices",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    request_body = PatchAll,
    responses(
        (status = 200, description = "These models as they are now", body = List<History>),
        BodyErrors, AdminErrors, BusyError
    )
)]
async fn patch_all(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let (received, actor) = admit(&app, request).await?;
    let body: PatchAll = received.json()?;
    let mut shown = Vec::new();
    for price in prices(&app, body.models, None)? {
        let model = price.model.clone();
        set(&app, actor, price).await?;
        shown.extend(history(&app, &model));
    }
    Ok(json_response(StatusCode::OK, &List::new(shown, None)))
}

/// Get a model's price and every price it had. The name is percent-encoded.
#[utoipa::path(
    get,
    path = "/api/v1/admin/pricing/{model_id}",
    operation_id = "get_price",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    params(ModelPath),
    responses(
        (status = 200, description = "The model", body = History),
        PathError, AdminErrors, crate::openapi::NotFoundError
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    request: Request,
) -> ApiResult {
    admit(&app, request).await?;
    let shown = history(&app, &model_name(&model))?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// Set a model's price from `effective_at` on, or from now; or take it away. What was charged before
/// stays; `POST /api/v1/admin/pricing/missing` books it anew.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/pricing/{model_id}",
    operation_id = "update_price",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    params(ModelPath),
    request_body = Patch,
    responses(
        (status = 200, description = "The model as it is now", body = History),
        BodyErrors, AdminErrors, BusyError
    )
)]
async fn patch(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    request: Request,
) -> ApiResult {
    let (received, actor) = admit(&app, request).await?;
    let body: Patch = received.json()?;
    let model = model_name(&model);
    set(&app, actor, patched(&app, &model, &body)?).await?;
    Ok(json_response(StatusCode::OK, &history(&app, &model)?))
}

/// See which models were charged for without a price; or give them prices, from the beginning unless
/// said otherwise, and have their charges booked anew. The same request again finishes what was cut
/// short and corrects nothing twice. A wrong price is rolled back by sending the right one.
#[utoipa::path(
    post,
    path = "/api/v1/admin/pricing/missing",
    operation_id = "price_missing_models",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    request_body = Option<MissingBody>,
    responses(
        (status = 200, description = "What is missing, and what was corrected", body = MissingShown),
        BodyErrors, AdminErrors, BusyError
    )
)]
async fn missing(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let (received, actor) = admit(&app, request).await?;
    let body: MissingBody = if received.body.is_empty() {
        MissingBody::default()
    } else {
        received.json()?
    };
    let mut corrected = Vec::new();
    if let Some(models) = body.models {
        for price in prices(&app, models, Some(Millis(0)))? {
            let model = price.model.clone();
            set(&app, actor, price).await?;
            let done = reprice(&app, &model, actor).await?;
            let directory = app.directory();
            let holds = directory.prices().at(&model, clock::now());
            corrected.push(Corrected {
                version: holds.map_or(0, |entry| entry.version),
                model_id: model,
                entries: done.entries,
                charges: done.charges,
                before_nanos: done.before.0,
                after_nanos: done.after.0,
            });
        }
    }
    let data = unpriced(&app).await?;
    Ok(json_response(
        StatusCode::OK,
        &MissingShown { data, corrected },
    ))
}

/// Books anew what was charged for a model, in every pump, piece by piece.
async fn reprice(app: &App, model: &str, actor: Actor) -> ApiResult<Repriced> {
    let mut all = Repriced::default();
    for pump in 0..app.shards.layout().pumps {
        loop {
            let command = Command::Reprice {
                model: model.to_owned(),
                from: None,
                after: all.next,
                actor,
            };
            let reply = app.call_pump(pump, command).await?;
            match reply.outcome {
                Outcome::Repriced(done) => all.join(done),
                _ => return Err(unexpected(&reply)),
            }
            if all.next.is_none() {
                break;
            }
        }
    }
    Ok(all)
}

async fn unpriced(app: &App) -> ApiResult<Vec<Missing>> {
    let mut all: BTreeMap<String, Unpriced> = BTreeMap::new();
    for pump in 0..app.shards.layout().pumps {
        let mut after = None;
        loop {
            let reply = app.call_pump(pump, Command::ReadUnpriced { after }).await?;
            let (found, next) = match reply.outcome {
                Outcome::Unpriced { found, next } => (found, next),
                _ => return Err(unexpected(&reply)),
            };
            for one in found {
                match all.get_mut(&one.model) {
                    Some(known) => known.join(one),
                    None => {
                        all.insert(one.model.clone(), one);
                    }
                }
            }
            if next.is_none() {
                break;
            }
            after = next;
        }
    }
    let day = |day: persist::Day| {
        let at = clock::rfc3339(day.start());
        at.get(..10).unwrap_or_default().to_owned()
    };
    let shown = all.into_values().map(|one| Missing {
        charges: one.charges,
        tokens: one.tokens,
        provisional_cost_nanos: one.cost.0,
        first_day: day(one.first),
        last_day: day(one.last),
        organizations: one.orgs.len() as u64,
        model_id: one.model,
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use persist::UserId;
    use persist::record::{Change, DirectoryRecord, User};

    #[test]
    fn the_first_account_runs_the_gateway_and_others_only_if_named_and_proven() {
        let mut directory = Directory::default();
        let mut add = |id: u128, email: &str, created_at: u64, verified_at| {
            let user = User {
                id: UserId(id),
                email,
                name: "",
                password_hash: "",
                verified_at,
                created_at: Millis(created_at),
            };
            directory.fold(&DirectoryRecord {
                at: Millis(created_at),
                actor: Actor::System,
                changes: vec![Change::UserAdded(user)],
            });
        };
        add(9, "first@example.com", 1, None);
        add(1, "ops@example.com", 2, Some(Millis(3)));
        add(2, "claimed@example.com", 2, None);
        add(3, "other@example.com", 2, Some(Millis(3)));
        let flag = "--platform-admins=OPS@example.com, claimed@example.com";
        let config = Config::parse_from(["nullrun", flag]);
        let runs = |id| {
            let user = directory.user(UserId(id)).unwrap();
            runs_the_gateway(&config, &directory, user)
        };
        assert_eq!([9, 1, 2, 3].map(runs), [true, true, false, false]);
    }
}
