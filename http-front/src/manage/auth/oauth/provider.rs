//! Talking to providers: what a code is worth. Nothing a provider says is believed but over TLS or with
//! its signature, and whatever it takes, ten seconds are the end of it.

use super::settings::{Kind, Settings, configured, is_safe};
use crate::config::{BadConfig, Config};
use crate::error::{ApiError, ApiResult};
use http::StatusCode;
use oauth2::basic::BasicClient;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreJwsSigningAlgorithm,
    CoreProviderMetadata, CoreUserInfoClaims,
};
use openidconnect::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClaimsVerificationError, ClientId,
    ClientSecret, CsrfToken, ErrorResponse, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    Scope, TokenResponse as _, TokenUrl,
};
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;

const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an issuer's addresses and keys are believed.
const FRESH: Duration = Duration::from_secs(3600);
/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 1 << 20;

/// Asks providers over HTTP.
#[derive(Debug, Clone)]
struct Http(Option<reqwest::Client>);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Unfetched;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Unfetched>> + Send + 'static>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.clone().fetch(request))
    }
}

impl Http {
    async fn fetch(self, request: HttpRequest) -> Result<HttpResponse, Unfetched> {
        let request = reqwest::Request::try_from(request).map_err(|_| Unfetched::Unsafe)?;
        let http = self.0.ok_or(Unfetched::Unconnected)?;
        if !is_safe(request.url()) {
            return Err(Unfetched::Unsafe);
        }
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => Unfetched::Slow,
            false => Unfetched::Unconnected,
        };
        let mut answer = http.execute(request).await.map_err(failed)?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err(Unfetched::Answer);
            }
            body.extend_from_slice(&chunk);
        }
        response.body(body).map_err(|_| Unfetched::Answer)
    }
}

/// Providers that are set up.
#[derive(Debug)]
pub struct Providers {
    all: Vec<Provider>,
    http: Http,
    discovered: Mutex<HashMap<String, (Instant, Arc<CoreProviderMetadata>)>>,
}

/// One of them.
#[derive(Debug)]
pub struct Provider(Settings);

/// What came back from the provider, and what was sent to it.
pub struct Answer {
    pub code: String,
    pub code_verifier: String,
    pub redirect_uri: String,
    pub nonce: Option<String>,
}

/// What is sent along with a browser.
pub struct Sent<'a> {
    pub redirect_uri: &'a str,
    pub state: &'a str,
    pub nonce: &'a str,
    pub code_verifier: &'a str,
}

/// Who a provider says it is.
pub struct Claims {
    pub subject: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub name: Option<String>,
}

/// Why a provider could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unfetched {
    #[error("its address is neither https nor on this machine")]
    Unsafe,
    #[error("no answer in time")]
    Slow,
    #[error("no connection")]
    Unconnected,
    #[error("its answer is too large or broken")]
    Answer,
}

fn unavailable(provider: &Provider, why: &str) -> ApiError {
    tracing::warn!(
        provider = provider.0.name,
        why,
        "a provider cannot be asked"
    );
    ApiError::unavailable(
        "oauth_unavailable",
        "the provider does not answer as it should; try again in a moment",
    )
}

fn misconfigured(provider: &Provider) -> ApiError {
    let Settings { name, .. } = &provider.0;
    let (id, secret) = (
        provider.0.variable("CLIENT_ID"),
        provider.0.variable("CLIENT_SECRET"),
    );
    tracing::error!(
        provider = name,
        "a provider does not take the gateway's client id and secret; set {id} and {secret} as they \
         are there, and restart"
    );
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "oauth_misconfigured",
        format!(
            "the provider does not take this gateway's client id and secret: {id} and {secret} must \
             be set as they are at the provider, and the gateway restarted"
        ),
    )
}

fn bad_code() -> ApiError {
    ApiError::unauthorized(
        "oauth_code_invalid",
        "the provider does not take this code with this code_verifier and redirect_uri; a code works \
         once and for minutes: begin again",
    )
}

fn bad_token(provider: &Provider, why: &str) -> ApiError {
    tracing::warn!(
        provider = provider.0.name,
        why,
        "a provider's token was refused"
    );
    ApiError::unauthorized(
        "oauth_token_invalid",
        "the provider's answer does not prove who signs in; begin again",
    )
}

impl Providers {
    /// From the settings.
    pub fn of(config: &Config) -> Result<Self, BadConfig> {
        let all: Vec<_> = configured(config)?.into_iter().map(Provider).collect();
        let http = || {
            // No redirects: they could lead secrets elsewhere. No idle connections: each belongs to
            // the thread that opened it.
            reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .timeout(PATIENCE)
                .redirect(reqwest::redirect::Policy::none())
                .pool_max_idle_per_host(0)
                .user_agent(concat!("nullrun/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| BadConfig::Provider(format!("no TLS for providers: {error}")))
        };
        let http = Http(if all.is_empty() { None } else { Some(http()?) });
        Ok(Self {
            all,
            http,
            discovered: Mutex::default(),
        })
    }

    /// Is there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// By name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.all.iter().find(|provider| provider.0.name == name)
    }

    /// For people.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<_> = self.all.iter().map(|p| p.0.name.as_str()).collect();
        names.join(", ")
    }

    /// An issuer's addresses and keys.
    async fn discover(
        &self,
        provider: &Provider,
        issuer: &str,
        anew: bool,
    ) -> ApiResult<Arc<CoreProviderMetadata>> {
        let name = &provider.0.name;
        let known = || {
            let known = self.discovered.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            known.get(name).cloned()
        };
        if let Some((at, found)) = known()
            && at.elapsed() < FRESH
            && !anew
        {
            return Ok(found);
        }
        let issuer = IssuerUrl::new(issuer.to_owned())
            .map_err(|_| unavailable(provider, "its issuer is no address"))?;
        let found = CoreProviderMetadata::discover_async(issuer, &self.http)
            .await
            .map_err(|error| unavailable(provider, &error.to_string()))?;
        let found = Arc::new(found);
        let mut all = self
            .discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), (Instant::now(), Arc::clone(&found)));
        Ok(found)
    }

    /// Where a browser is sent.
    pub async fn authorize(&self, provider: &Provider, sent: Sent<'_>) -> ApiResult<Url> {
        let asked = tokio::time::timeout(PATIENCE, self.authorization(provider, sent)).await;
        asked.unwrap_or_else(|_| Err(unavailable(provider, "no answer in time")))
    }

    async fn authorization(&self, provider: &Provider, sent: Sent<'_>) -> ApiResult<Url> {
        let redirect = redirect(provider, sent.redirect_uri)?;
        let verifier = PkceCodeVerifier::new(sent.code_verifier.to_owned());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let (state, nonce) = (sent.state.to_owned(), sent.nonce.to_owned());
        match &provider.0.kind {
            Kind::GitHub(base) => {
                let client = BasicClient::new(ClientId::new(provider.0.client_id.clone()))
                    .set_auth_uri(AuthUrl::from_url(under(base, "login/oauth/authorize")))
                    .set_redirect_uri(redirect);
                let (url, _) = client
                    .authorize_url(|| CsrfToken::new(state))
                    .add_scope(Scope::new("read:user".to_owned()))
                    .add_scope(Scope::new("user:email".to_owned()))
                    .set_pkce_challenge(challenge)
                    .url();
                Ok(url)
            }
            Kind::Oidc(issuer) => {
                let metadata = self.discover(provider, issuer, false).await?;
                let id = ClientId::new(provider.0.client_id.clone());
                let client = CoreClient::from_provider_metadata((*metadata).clone(), id, None)
                    .set_redirect_uri(redirect);
                let (url, ..) = client
                    .authorize_url(
                        CoreAuthenticationFlow::AuthorizationCode,
                        || CsrfToken::new(state),
                        || Nonce::new(nonce),
                    )
                    .add_scope(Scope::new("email".to_owned()))
                    .add_scope(Scope::new("profile".to_owned()))
                    .set_pkce_challenge(challenge)
                    .url();
                Ok(url)
            }
        }
    }

    /// Who a code stands for.
    pub async fn claims(&self, provider: &Provider, answer: Answer) -> ApiResult<Claims> {
        let asked = async {
            match &provider.0.kind {
                Kind::GitHub(base) => self.github(provider, base, answer).await,
                Kind::Oidc(issuer) => self.oidc(provider, issuer, answer).await,
            }
        };
        // Several questions, and one bound for all of them.
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        asked.unwrap_or_else(|_| Err(unavailable(provider, "no answer in time")))
    }

    async fn oidc(&self, provider: &Provider, issuer: &str, answer: Answer) -> ApiResult<Claims> {
        let metadata = self.discover(provider, issuer, false).await?;
        let client = oidc_client(provider, &metadata, &answer.redirect_uri)?;
        let token = client
            .exchange_code(AuthorizationCode::new(answer.code))
            .map_err(|_| unavailable(provider, "it has no token endpoint"))?
            .set_pkce_verifier(PkceCodeVerifier::new(answer.code_verifier))
            .request_async(&self.http)
            .await
            .map_err(|error| refused(provider, error))?;
        let id_token = token
            .id_token()
            .ok_or_else(|| bad_token(provider, "there is no ID token"))?;
        let nonce = |given: Option<&Nonce>| same_nonce(given, answer.nonce.as_deref());
        let verified = id_token.claims(&verifier_of(&client, &metadata), nonce);
        let claims = match verified {
            // Keys change: they are asked for anew, once.
            Err(ClaimsVerificationError::SignatureVerification(_)) => {
                let metadata = self.discover(provider, issuer, true).await?;
                let client = oidc_client(provider, &metadata, &answer.redirect_uri)?;
                id_token
                    .claims(&verifier_of(&client, &metadata), nonce)
                    .cloned()
            }
            verified => verified.cloned(),
        };
        let claims = claims.map_err(|error| bad_token(provider, kind_of(&error)))?;
        let mut found = Claims {
            subject: claims.subject().to_string(),
            email: claims.email().map(|email| email.to_string()),
            email_verified: claims.email_verified() == Some(true),
            name: claims
                .name()
                .and_then(|name| name.get(None))
                .map(|name| name.to_string()),
        };
        if found.email.is_none()
            && let Ok(asking) =
                client.user_info(token.access_token().clone(), Some(claims.subject().clone()))
        {
            let told: CoreUserInfoClaims = asking
                .request_async(&self.http)
                .await
                .map_err(|_| unavailable(provider, "it does not tell about the person"))?;
            found.email = told.email().map(|email| email.to_string());
            found.email_verified = told.email_verified() == Some(true);
        }
        Ok(found)
    }

    async fn github(&self, provider: &Provider, base: &Url, answer: Answer) -> ApiResult<Claims> {
        let client = BasicClient::new(ClientId::new(provider.0.client_id.clone()))
            .set_client_secret(ClientSecret::new(provider.0.client_secret.clone()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::from_url(under(base, "login/oauth/access_token")))
            .set_redirect_uri(redirect(provider, &answer.redirect_uri)?);
        let token = client
            .exchange_code(AuthorizationCode::new(answer.code))
            .set_pkce_verifier(PkceCodeVerifier::new(answer.code_verifier))
            .request_async(&self.http)
            .await
            .map_err(|error| refused(provider, error))?;
        let token = token.access_token().secret();
        let user: GitHubUser = self.github_api(provider, base, "user", token).await?;
        let emails: Vec<GitHubEmail> = self
            .github_api(provider, base, "user/emails", token)
            .await?;
        let primary = emails.into_iter().find(|email| email.primary);
        Ok(Claims {
            subject: user.id.to_string(),
            email_verified: primary.as_ref().is_some_and(|email| email.verified),
            email: primary.map(|email| email.email),
            name: user.name.or(Some(user.login)),
        })
    }

    async fn github_api<T: DeserializeOwned>(
        &self,
        provider: &Provider,
        base: &Url,
        what: &str,
        token: &str,
    ) -> ApiResult<T> {
        let url = match base.host_str() {
            Some("github.com") => format!("https://api.github.com/{what}"),
            // GitHub Enterprise Server has it under its own address.
            _ => under(base, &format!("api/v3/{what}")).to_string(),
        };
        let request = http::Request::get(url)
            .header(http::header::ACCEPT, "application/vnd.github+json")
            .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Vec::new())
            .map_err(|_| unavailable(provider, "its address is none"))?;
        let answer = self.http.clone().fetch(request).await;
        let answer = answer.map_err(|error| unavailable(provider, &error.to_string()))?;
        if !answer.status().is_success() {
            return Err(unavailable(provider, "it does not tell about the person"));
        }
        serde_json::from_slice(answer.body())
            .map_err(|_| unavailable(provider, "it tells about the person in another form"))
    }
}

#[derive(Deserialize)]
struct GitHubUser {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct GitHubEmail {
    email: String,
    primary: bool,
    verified: bool,
}

fn under(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let before = base.path().trim_end_matches('/');
    url.set_path(&format!("{before}/{path}"));
    url
}

fn redirect(provider: &Provider, uri: &str) -> ApiResult<RedirectUrl> {
    RedirectUrl::new(uri.to_owned())
        .map_err(|_| unavailable(provider, "the redirect address is none"))
}

type OidcClient = CoreClient<
    openidconnect::EndpointSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointMaybeSet,
    openidconnect::EndpointMaybeSet,
>;

fn oidc_client(
    provider: &Provider,
    metadata: &CoreProviderMetadata,
    redirect_uri: &str,
) -> ApiResult<OidcClient> {
    let methods = metadata.token_endpoint_auth_methods_supported();
    // Without a word from the issuer, Basic is what the standard says.
    let basic = methods.is_none_or(|all| all.contains(&CoreClientAuthMethod::ClientSecretBasic));
    let auth = if basic {
        AuthType::BasicAuth
    } else {
        AuthType::RequestBody
    };
    let client = CoreClient::from_provider_metadata(
        metadata.clone(),
        ClientId::new(provider.0.client_id.clone()),
        Some(ClientSecret::new(provider.0.client_secret.clone())),
    );
    Ok(client
        .set_auth_type(auth)
        .set_redirect_uri(redirect(provider, redirect_uri)?))
}

fn verifier_of<'a>(
    client: &'a OidcClient,
    metadata: &CoreProviderMetadata,
) -> openidconnect::core::CoreIdTokenVerifier<'a> {
    use CoreJwsSigningAlgorithm::{HmacSha256, HmacSha384, HmacSha512, None as Unsigned};
    // Signed by the issuer's own key, whatever else it says it can do.
    let algorithms = metadata.id_token_signing_alg_values_supported().iter();
    let signed = algorithms
        .filter(|one| ![HmacSha256, HmacSha384, HmacSha512, Unsigned].contains(one))
        .cloned();
    client.id_token_verifier().set_allowed_algs(signed)
}

/// The nonce must be the one that was sent; a token for another flow is none for this one.
fn same_nonce(given: Option<&Nonce>, sent: Option<&str>) -> Result<(), String> {
    let given = given
        .map(|nonce| nonce.secret().as_bytes())
        .unwrap_or_default();
    let sent = sent.map(str::as_bytes).unwrap_or_default();
    match bool::from(given.ct_eq(sent)) {
        true => Ok(()),
        false => Err("another nonce".to_owned()),
    }
}

/// The library's words hold what the token says; these do not.
const fn kind_of(error: &ClaimsVerificationError) -> &'static str {
    match error {
        ClaimsVerificationError::Expired(_) => "it is too old",
        ClaimsVerificationError::InvalidAudience(_) => "it is for another client",
        ClaimsVerificationError::InvalidIssuer(_) => "it is of another issuer",
        ClaimsVerificationError::InvalidNonce(_) => "it has another nonce",
        ClaimsVerificationError::SignatureVerification(_) => "its signature is wrong",
        _ => "it is not valid",
    }
}

fn refused<E, T>(provider: &Provider, error: RequestTokenError<E, T>) -> ApiError
where
    E: std::error::Error + 'static,
    T: ErrorResponse + 'static,
{
    match error {
        RequestTokenError::ServerResponse(said) => {
            let said = serde_json::to_value(&said).unwrap_or_default();
            named(provider, said["error"].as_str().unwrap_or_default())
        }
        // GitHub refuses with 200.
        RequestTokenError::Parse(_, body) if error_of(&body).is_some() => {
            named(provider, &error_of(&body).unwrap_or_default())
        }
        RequestTokenError::Request(error) => unavailable(provider, &error.to_string()),
        _ => unavailable(provider, "its answer to a code cannot be read"),
    }
}

/// What a provider's word for its refusal means. Its description is not repeated: some quote there
/// what they were sent.
fn named(provider: &Provider, error: &str) -> ApiError {
    match error {
        // RFC 6749, section 5.2; the last is GitHub's.
        "invalid_client" | "unauthorized_client" | "incorrect_client_credentials" => {
            misconfigured(provider)
        }
        _ => bad_code(),
    }
}

fn error_of(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("error")?.as_str().map(str::to_owned)
}
