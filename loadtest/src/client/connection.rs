//! One keep-alive connection and the requests that go over it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::in_flight::{CountedStream, InFlight};
use super::{Answer, Caller, Protocol, SdkKey};
use crate::clock::unix_secs;
use crate::error::{Error, Result};

/// How long one request may take before it counts as unanswered. Longer than the gateway's own deadline (3 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a gateway listens.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: SocketAddr,
    authority: String,
}

impl Endpoint {
    /// Parses `http://host:port`; the harness speaks plain HTTP only.
    pub fn parse(url: &str) -> Result<Self> {
        let authority = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        let Some(authority) = authority.filter(|rest| !rest.is_empty() && !rest.contains('/'))
        else {
            return Err(Error::Usage(format!(
                "`{url}` is not of the form http://host:port"
            )));
        };
        let with_port = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let found = with_port
            .to_socket_addrs()
            .map_err(Error::io(format!("looking up {authority}")))?
            .next();
        let address = found.ok_or_else(|| Error::Usage(format!("`{authority}` has no address")))?;
        Ok(Self {
            address,
            authority: authority.to_owned(),
        })
    }
}

/// A request whose body and signature are made, ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    request: Request<Full<Bytes>>,
    name: String,
}

impl Prepared {
    /// Adds a header.
    ///
    /// # Errors
    /// If it cannot be one.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let bad = Error::Usage;
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        let value = hyper::header::HeaderValue::from_str(value);
        let headers = self.request.headers_mut();
        headers.insert(
            name.map_err(|error| bad(error.to_string()))?,
            value.map_err(|error| bad(error.to_string()))?,
        );
        Ok(self)
    }
}

/// One connection, opened on first use and reopened after a failure.
#[derive(Debug)]
pub struct Connection {
    endpoint: Endpoint,
    in_flight: Arc<InFlight>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection that counts nothing anyone else sees.
    pub fn new(endpoint: &Endpoint) -> Self {
        Self::counted(endpoint, Arc::default())
    }

    /// A connection that reports to `in_flight`.
    pub fn counted(endpoint: &Endpoint, in_flight: Arc<InFlight>) -> Self {
        Self {
            endpoint: endpoint.clone(),
            in_flight,
            sender: None,
        }
    }

    /// Opens the TCP connection now, so that the first request does not pay for it.
    pub async fn open(&mut self) -> Result<()> {
        if let Some(sender) = self.sender.as_mut() {
            if sender.ready().await.is_ok() {
                return Ok(());
            }
            self.sender = None;
        }
        let connecting = async {
            let stream = TcpStream::connect(self.endpoint.address)
                .await
                .map_err(|error| error.to_string())?;
            stream
                .set_nodelay(true)
                .map_err(|error| error.to_string())?;
            let io = TokioIo::new(CountedStream::new(stream, Arc::clone(&self.in_flight)));
            handshake(io).await.map_err(|error| error.to_string())
        };
        let (sender, connection) = connecting.await.map_err(|reason| Error::NoAnswer {
            request: format!("connect to {}", self.endpoint.authority),
            reason,
        })?;
        // The connection's errors surface at `send_request`; the task itself has nobody to tell.
        tokio::spawn(async move { drop(connection.await) });
        self.sender = Some(sender);
        Ok(())
    }

    /// Builds a request: headers and signature as published SDKs (or the dashboard) send them.
    pub fn prepare(
        &self,
        method: Method,
        path: &str,
        caller: Caller<'_>,
        body: Option<Bytes>,
    ) -> Result<Prepared> {
        let name = format!("{method} {path}");
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.endpoint.authority);
        let bytes = body.clone().unwrap_or_default();
        if body.is_some() {
            builder = builder.header("content-type", HeaderValue::from_static("application/json"));
        }
        builder = match caller {
            Caller::Anonymous => builder,
            Caller::Session(token) => builder.header("authorization", format!("Bearer {token}")),
            Caller::Key(key) => {
                let unsigned = builder.header("x-api-key", key.api_key());
                match key.workflow_header() {
                    Some(workflow) => unsigned.header("x-workflow-id", workflow),
                    None => unsigned,
                }
            }
            Caller::Signed(key, protocol) => {
                let now = unix_secs();
                let mut signed = builder
                    .header("x-api-key", key.api_key())
                    .header("authorization", format!("Bearer {}", key.api_key()))
                    .header("x-signature-timestamp", now)
                    .header("x-signature", key.sign(&bytes, now));
                if let Some(generation) = protocol.header() {
                    signed = signed.header("x-nullrun-protocol", generation);
                }
                if let Some(workflow) = key.workflow_header() {
                    signed = signed.header("x-workflow-id", workflow);
                }
                signed
            }
        };
        let request = builder.body(Full::new(bytes));
        let request = request
            .map_err(|error| Error::Usage(format!("{name} is no valid request: {error}")))?;
        Ok(Prepared { request, name })
    }

    /// Sends and waits for the whole answer, body unparsed. After an error the effect of the request is in doubt.
    pub async fn exchange(&mut self, prepared: Prepared) -> Result<(u16, hyper::HeaderMap, Bytes)> {
        self.open().await?;
        let Prepared { request, name } = prepared;
        let Some(sender) = self.sender.as_mut() else {
            return Err(Error::NoAnswer {
                request: name,
                reason: "not connected".into(),
            });
        };
        let exchanging = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((head.status.as_u16(), head.headers, body.to_bytes()))
        };
        let outcome = match tokio::time::timeout(REQUEST_TIMEOUT, exchanging).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("nothing within {} s", REQUEST_TIMEOUT.as_secs())),
        };
        if outcome.is_err() {
            self.sender = None;
        }
        outcome.map_err(|reason| Error::NoAnswer {
            request: name,
            reason,
        })
    }

    /// Sends a prepared request and parses the answer.
    pub async fn send(&mut self, prepared: Prepared) -> Result<Answer> {
        let request = prepared.name.clone();
        let (status, headers, raw) = self.exchange(prepared).await?;
        let body = serde_json::from_slice(&raw).unwrap_or(Value::Null);
        Ok(Answer {
            request,
            status,
            headers,
            body,
            raw,
        })
    }

    /// Any request with an optional JSON body.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        caller: Caller<'_>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let bytes = body.map(|value| Bytes::from(value.to_string()));
        let prepared = self.prepare(method, path, caller, bytes)?;
        self.send(prepared).await
    }

    /// `GET path`.
    pub async fn get(&mut self, path: &str, caller: Caller<'_>) -> Result<Answer> {
        self.request(Method::GET, path, caller, None).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&mut self, path: &str, caller: Caller<'_>, body: &Value) -> Result<Answer> {
        self.request(Method::POST, path, caller, Some(body)).await
    }

    /// `PATCH path` with a JSON body.
    pub async fn patch(&mut self, path: &str, caller: Caller<'_>, body: &Value) -> Result<Answer> {
        self.request(Method::PATCH, path, caller, Some(body)).await
    }

    /// `DELETE path`.
    pub async fn delete(&mut self, path: &str, caller: Caller<'_>) -> Result<Answer> {
        self.request(Method::DELETE, path, caller, None).await
    }

    /// A signed SDK POST at protocol 4.
    pub async fn post_signed(&mut self, path: &str, key: &SdkKey, body: &Value) -> Result<Answer> {
        self.post(path, Caller::Signed(key, Protocol::V4), body)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_taken() {
        assert!(Endpoint::parse("http://127.0.0.1:8080").is_ok());
        assert!(Endpoint::parse("https://127.0.0.1:8080").is_err());
        assert!(Endpoint::parse("http://127.0.0.1:8080/api").is_err());
        assert!(Endpoint::parse("127.0.0.1:8080").is_err());
    }

    #[test]
    fn signed_requests_carry_the_headers_of_published_clients() {
        let endpoint = Endpoint::parse("http://127.0.0.1:8080").unwrap();
        let key = SdkKey::new("nr_live_x", "secret").for_workflow("w");
        let connection = Connection::new(&endpoint);
        let caller = Caller::Signed(&key, Protocol::V3);
        let prepared = connection
            .prepare(
                Method::POST,
                "/api/v1/gate",
                caller,
                Some(Bytes::from("{}")),
            )
            .unwrap();
        let headers = prepared.request.headers();
        for (name, value) in [
            ("x-api-key", "nr_live_x"),
            ("authorization", "Bearer nr_live_x"),
            ("x-nullrun-protocol", "3"),
            ("x-workflow-id", "w"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert_eq!(headers["x-signature"].len(), 64);
    }
}
