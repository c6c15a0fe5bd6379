"""What redaction is measured with: planted secrets of many shapes, and harmless texts that look like some.

Every value is made up here from a fixed seed and the public format of its kind, so no line of this file is a secret,
nor looks like one to a scanner of repositories. Every fourth shape and every fourth harmless text is held out: rules
are tuned on the others only.
"""

# ruff: noqa: E501  a table of texts is read by its columns
from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

_UPPER, _LOWER, _DIGITS = string.ascii_uppercase, string.ascii_lowercase, string.digits
_ALPHABETS = {
    "A": _UPPER + _LOWER + _DIGITS,
    "U": _UPPER + _DIGITS,
    "L": _LOWER + _DIGITS,
    "H": "0123456789abcdef",
    "D": _DIGITS,
    "B": _UPPER + _LOWER + _DIGITS + "+/",
    "W": _UPPER + _LOWER + _DIGITS + "_",
    "S": _UPPER + _LOWER + _DIGITS + "!#%*+^~",
}
"""What `<A36>` in a recipe means: 36 characters of alphabet A."""

_RECIPE = re.compile(r"<([AULHDBWS])(\d+)>")

# fmt: off
_TOKENS: dict[str, tuple[str, ...]] = {
    "GitHub token": ("ghp_<A36>", "gho_<A36>", "ghs_<A36>"),
    "GitHub fine-grained token": ("github_pat_<A22>_<A59>", "github_pat_<W82>", "ghu_<A36>"),
    "GitLab token": ("glpat-<W20>", "glptt-<H40>", "glrt-<W20>"),
    "GitLab deploy and runner": ("gldt-<W20>", "glcbt-<H2>_<A20>", "glagent-<W50>"),
    "Slack bot token": ("xoxb-<D12>-<D13>-<A24>", "xoxp-<D12>-<D12>-<D12>-<H32>", "xoxe.xoxp-1-<A60>"),
    "Slack app token": ("xapp-1-<U11>-<D13>-<H64>", "xoxs-<D12>-<D12>-<A20>", "xoxr-<D12>-<A24>"),
    "AWS access key": ("AKIA<U16>", "ASIA<U16>", "ABIA<U16>"),
    "Google API key": ("AIza<W35>", "AIza<W35>", "AIza<W35>"),
    "Google OAuth": ("ya29.<W80>", "GOCSPX-<W28>", "ya29.a0A<W60>"),
    "Stripe": ("sk_live_<A24>", "rk_live_<A24>", "sk_test_<A24>"),
    "Stripe hook": ("whsec_<A32>", "whsec_<A32>", "sk_live_<A99>"),
    "Grafana": ("glsa_<A32>_<H8>", "glc_eyJ<A60>", "glsa_<A32>_<H8>"),
    "Vault": ("hvs.<W90>", "hvb.<W100>", "hvs.CAES<W60>"),
    "npm": ("npm_<A36>", "npm_<A36>", "npm_<A36>"),
    "PyPI": ("pypi-AgEIcHlwaS5vcmc<W70>", "pypi-AgENdGVzdC5weXBpLm9yZw<W70>", "pypi-AgEIcHlwaS5vcmc<W90>"),
    "SendGrid": ("SG.<W22>.<W43>", "SG.<W22>.<W43>", "SG.<W22>.<W43>"),
    "Hugging Face": ("hf_<A34>", "hf_<A37>", "api_org_<A34>"),
    "DigitalOcean": ("dop_v1_<H64>", "doo_v1_<H64>", "dor_v1_<H64>"),
    "JWT": ("eyJ<A20>.eyJ<A60>.<W43>", "eyJ<A33>.eyJ<A120>.<W86>", "eyJ<A17>.eyJ<A40>.<W43>"),
    "own API key": ("apk_<L12>_<W43>", "apk_<W43>", "apk_<W40>"),
    "own signing secret": ("aps_<W43>", "aps_<L8>_<W43>", "aps_<W40>"),
    "OpenAI": ("sk-<A48>", "sk-proj-<W74>", "sk-svcacct-<W60>"),
    "Anthropic": ("sk-ant-api03-<W93>", "sk-ant-admin01-<W80>", "sk-ant-api03-<W90>"),
    "Shopify": ("shpat_<H32>", "shpss_<H32>", "shpca_<H32>"),
    "Mailgun and Mailchimp": ("key-<H32>", "<H32>-us14", "<H32>-us5"),
    "Twilio": ("SK<H32>", "SK<H32>", "SK<H32>"),
    "Telegram bot": ("<D9>:AA<W33>", "<D10>:AA<W33>", "<D10>:AA<W33>"),
    "Linear, Notion, Atlassian": ("lin_api_<A40>", "ntn_<A46>", "ATATT3xFfGF0<W180>"),
    "Databricks, Terraform": ("dapi<H32>", "<A14>.atlasv1.<W64>", "dapi<H32>-2"),
    "New Relic": ("NRAK-<U27>", "NRJS-<H19>", "NRII-<W32>"),
    "Docker Hub, Fly, Doppler": ("dckr_pat_<W27>", "fo1_<W43>", "dp.pt.<A43>"),
    "age, 1Password, PlanetScale": ("AGE-SECRET-KEY-1<U58>", "ops_eyJ<A260>", "pscale_tkn_<W43>"),
    "Sentry, PostHog": ("sntrys_eyJ<A60>_<B43>", "sntryu_<H64>", "phx_<A43>"),
    "Azure client secret": ("<A3>8Q~<W34>", "<A3>7Q~<W31>", "<A3>8Q~<W34>"),
    "RubyGems, crates, Square": ("rubygems_<H48>", "cio<A32>", "sq0csp-<W43>"),
    "Heroku, Airtable, Figma": ("HRKU-AA<W58>", "pat<A14>.<H64>", "figd_<W40>"),
}
"""Tokens that their own shape gives away: they stand alone in a sentence, and no name stands before them."""

_SENTENCES = ("seen {} in the log", "pay-7: request with {} failed, 3 of 3 tries", "rejected: {}")

_SHAPES: dict[str, tuple[str, ...]] = {
    "Authorization header": (
        "Authorization: Bearer {<A40>}", "authorization: Basic {<A30>==}", "Authorization: Token {<H40>}"),
    "Authorization of others": (
        "Authorization: ApiKey {<A43>==}", "Authorization=GenieKey {<H36>}", "Proxy-Authorization: {<A24>}"),
    "Authorization of AWS": (
        "Authorization: AWS4-HMAC-SHA256 Credential=x/20261127/eu/s3/aws4_request, Signature={<H64>}",
        "Authorization: SharedKey acct:{<B43>=}", "Authorization: Digest username=\"bob\", response=\"{<H32>}\""),
    "header with a key": ("X-Api-Key: {<A32>}", "PRIVATE-TOKEN: {<A20>}", "X-Vault-Token: {<A24>}"),
    "header in curl": (
        "curl -H 'X-Auth-Token: {<A32>}' http://h/", "curl -H \"Authorization: Bearer {<A12>}\" h",
        "curl -H 'DD-API-KEY: {<H32>}' h"),
    "cookie": ("Cookie: a=b; session={<A32>}", "Set-Cookie: sid={<A24>}; Path=/", "cookie: JSESSIONID={<U32>}"),
    "Bearer in a sentence": ("sent Bearer {<A24>}", "used bearer {<W30>} twice", "Bearer: {<A24>}"),
    "assignment": ("password={<S14>}", "login failed: user=bob password={<S10>}", "db_passwd={<A9>}"),
    "assignment of a word": ("password={hunter}", "DB_PASSWORD={sunshine}", "pwd={letmein}"),
    "assignment with spaces": ("password = {<S12>}", "api_key     =     {<A32>}", "secret := {<A20>}"),
    "assignment with delimiters": ("password={aB3,xK9;z<A6>}", "password={q7<A4>&9z(<A4>}", "password=[[[{<A12>}]]]"),
    "environment": ("export DB_PASS={<A12>}", "PGPASSWORD={<S12>} psql -h db", "export AWS_SECRET_ACCESS_KEY={<B40>}"),
    "environment of others": ("MYSQL_PWD={<A9>}", "SECRET_KEY={<S50>}", "set VAULT_TOKEN={<A26>}"),
    "quoted": ("password: \"{<S8> <S8>}\"", "token='{<A20>}'", "client_secret=\"{<A32>}\""),
    "JSON in a text": (
        "body {{\"client_secret\": \"{<A32>}\"}} refused", "{{\\\"api_key\\\": \\\"{<A32>}\\\"}}",
        "{{'token': '{<A20>}', 'n': 1}}"),
    "YAML": ("db:\n  password: {<S12>}\n  user: app", "smtp:\n  pass: {<A12>}", "token: {<A32>}"),
    "XML": ("<password>{<A12>}</password>", "<apiKey>{<A32>}</apiKey>", "<add key=\"password\" value=\"{<A12>}\"/>"),
    "name and value": (
        "- name: DB_PASSWORD\n  value: {<A14>}", "{{\"name\":\"API_TOKEN\",\"value\":\"{<A24>}\"}}",
        "name: SECRET_KEY, value: {<A40>}"),
    "URL with a password": (
        "postgresql://app:{<A14>}@db/app", "redis://:{<A20>}@cache:6379/0", "amqp://u:p@{<A9>}@mq:5672/"),
    "URL with a strange password": (
        "postgres://u:p#{<A9>}@db/x", "mysql://root:a/{<A9>}?@db:3306/x", "https://bob:{hunter}@example.com/"),
    "URL with a token": (
        "https://{<A40>}@github.example/o/r.git", "https://{<H32>}@o1.ingest.sentry.example/2",
        "https://oauth2:{<A20>}@gitlab.example/o/r.git"),
    "query": (
        "GET /v1?access_token={<A24>}&b=2", "https://maps.example.com/?key={<A39>}", "https://h/x?a=1&apikey={<A20>}#f"),
    "signed URL": (
        "https://b.example.com/?X-Amz-Signature={<H64>}", "https://a.blob.example/c?sv=2024&sig={<A43>%3D}",
        "https://storage.example.com/o?X-Goog-Signature={<H128>}"),
    "encoded query": ("password%3D{<A12>}", "next=%2Fx%3Ftoken%3D{<A24>}", "redirect=a%26api_key%3D{<A24>}"),
    "connection string": (
        "Server=db;User Id=sa;Password={<A12>};", "AccountName=a;AccountKey={<B86>==};EndpointSuffix=x",
        "Endpoint=sb://x/;SharedAccessKeyName=root;SharedAccessKey={<B43>=}"),
    "DSN": ("host=db user=app password={<A12>} dbname=x", "jdbc:mysql://h/db?user=u&password={<A12>}",
            "dsn: {<A30>}"),
    "curl -u": ("curl -u admin:{<A12>} https://h/", "curl -s --user bob:{<A9>} h", "curl -sS -u 'a:{<S10>}' h"),
    "flags": ("mysqldump --password {<A12>} --host db", "mysql --password={<A12>}", "tool --token={<A24>} run"),
    "short flags": ("mysql -u root -p{<A12>} shop", "sshpass -p {<A12>} ssh h", "redis-cli -h c -a {<A20>} ping"),
    "Slack hook": (
        "https://hooks.slack.com/services/T{<U9>/B<U9>/<A24>}", "https://hooks.slack.com/workflows/{T<U9>/A<U9>/<A24>}",
        "https://hooks.slack.com/triggers/{T<U9>/<D13>/<H32>}"),
    "other hooks": (
        "https://discord.com/api/webhooks/{<D18>/<A68>}", "https://x.webhook.office.com/webhookb2/{<H32>@<H32>/a/<H32>}",
        "https://hooks.zapier.com/hooks/catch/{<D7>/<L7>}"),
    "hooks with a key in the path": (
        "https://events.pagerduty.com/integration/{<H32>}/enqueue", "https://api.telegram.org/bot{<D9>:<A35>}/sendMessage",
        "https://prod.westeurope.logic.azure.com/workflows/x/run?sig={<A43>}"),
    "private key": (
        "-----BEGIN RSA PRIV" "ATE KEY-----\n{MIIE<B60>}\n-----END RSA PRIV" "ATE KEY-----",
        "-----BEGIN OPENSSH PRIV" "ATE KEY-----\\n{<B70>}\\n-----END OPENSSH PRIV" "ATE KEY-----",
        "-----BEGIN PGP PRIV" "ATE KEY BLOCK-----\n{<B60>}"),
    "sentence": ("token {<A24>} is used by two hosts", "the pwd is {<A10>}", "password was {<S12>}"),
    "sentence with a colon": (
        "new password for bob: {<A10>}", "api key: {<A32>}", "Password: {<A10>} is wrong for root"),
    "AWS secret": ("aws_secret_access_key = {<B40>}", "secret access key {<B40>}", "SecretAccessKey: {<B40>}"),
    "Vault and cloud files": (
        "secret_id: {<H8>-<H4>-<H4>-<H4>-<H12>}", "\"private_key\": \"{<H40>}\"", "client-key-data: {LS0t<B60>}"),
    "other languages": ("Passwort: {<A10>}", "contraseña={<A10>}", "пароль: {<A10>}"),
    "other languages, more": ("mot de passe : {<A10>}", "密码: {<A10>}", "senha={<A10>}"),
    "npmrc, netrc, pgpass": (
        "//registry.example/:_authToken={<A36>}", "machine h login bob password {<A12>}", "auth: {<A24>=}"),
    "one-time and session": ("otp={<D6>}", "sessionid={<L32>}", "csrf_token={<A32>}"),
    "weak names": ("signature={<H64>}", "hmac: {<H40>}", "bearer={<A24>}"),
    "key of something": ("ssh_key={<B60>}", "license_key: {<U5>-<U5>-<U5>-<U5>}", "subscription-key={<H32>}"),
    "key, short": ("master_key={<A32>}", "encryption.key={<B43>=}", "key={<A32>}"),
    "Java properties": (
        "spring.datasource.password={<S12>}", "sasl.jaas.config=x required username=\"u\" password=\"{<A12>}\";",
        "jdbc:oracle:thin:scott/{<A9>}@db:1521/x"),
}
"""Secrets that the words around them give away: what stands in braces is the secret."""

_LATER: dict[str, tuple[str, ...]] = {
    "quoted after a word": ("password is '{<A10>}'", "password \"{<A12>}\" was rejected", "create user x identified by '{<A12>}'"),
    "odd separators": ("password -> {<A10>}", "the password is: {<A10>}", "password=null {<A12>}"),
    "names of few letters": ("pw={<A10>}", "wifi psk={<A12>}", "requirepass {<A24>}"),
    "with a sign in it": ("password=p@{<A9>}", "DB_PASSWORD: p@ss{<A6>}!x", "postgresql://h/x?user=u&password=p@{<A9>}&a=1"),
    "with a sign in it, said": ("password is {p@<L7>}", "the pwd was '{<L4>$<L5>}'", "passphrase for bob is: {<L5>!<L4>}, ask him"),
    "words in quotation marks": (
        "password=\"two words and {<A9>}\"", "password: 'it''s {<A9>} and more'", "password: “two words {<A9>}”, host db-1"),
    "words in quotation marks, escaped": (
        "body {{\\\"password\\\": \\\"two words {<A9>}\\\"}}", "passphrase: `correct horse {<A9>}`", "PASSWORD='a \"b\" {<A9>}'"),
    "YAML block": (
        "password: |\n  first line\n  {<A12>}\nuser: app", "smtp:\n  token: >-\n    aaa bbb\n    {<A12>} c\n  user: app",
        "- password: |2-  # of the vault\n    a\n\n    {<A9>} b\n  user: app"),
    "YAML block within JSON": ("{{\"m\": \"password: |\\n  ab\\n  {<A12>}\\nuser: bob\"}}", "api_key: |\r\n  {<A24>}\r\nx: 1", "private_key: >\n  {<A30>}"),
    "value below its name": ("password:\n  {<A9>}", "db:\n  password:\n    \"two {<A9>}\"\n  user: app", "token:   # of ci\n  {<A20>}"),
    "item of a YAML list": (
        "secrets:\n  - a1b2c3d4e5\n  - {<A12>}\nnext: 1", "api_keys:\n- {<A20>}\n- x\nhost: web-1",
        "passwords:\n  - \"two words\"\n  - sunshine\n  - {<A9>}"),
    "item of a list": ("passwords: [hunter, {<A9>}]", "tokens=[\"abcdef12\", \"{<A20>}\", \"x\"]", "passwords: (hunter, sunshine, {<A9>})"),
    "item of a JSON array": (
        "{{\"passwords\": [\"alpha\", \"{<A9>}\"], \"host\": \"x\"}}", "{{\\\"api_keys\\\": [\\\"abcd1234\\\", \\\"{<A20>}\\\"]}}",
        "{{\"secrets\": [\n  \"abcd1234\",\n  \"{<A12>}\"\n]}}"),
    "list without brackets": ("passwords: hunter, {<A9>}", "db_passwords=hunter,{<A9>},x", "passwords: hunter, sunshine, {<A9>} on db-1"),
    "mapping": ("password: {{\"new\": \"{<A9>}\"}}", "\"api_key\": {{\"old\": \"a\", \"new\": \"{<A20>}\"}}", "password={{value: {<A9>} }}"),
    "header in brackets": (
        "Authorization: (Digest username=\"x\", response=\"{<H32>}\")", "headers: Cookie: [a=b; sid={<A24>}]", "Authorization: [Bearer {<A24>}]"),
    "login of Go's drivers": ("root:{<A12>}@tcp(db:3306)/x", "app:{<A9>}@unix(/run/x.sock)/y", "tls.key: {<B60>}"),
}
"""Found by a second look, after the rules: none of them is held out."""

_OBJECTS: dict[str, tuple[str, ...]] = {
    "key of an object": ("password", "api_key", "clientSecret"),
    "weak key of an object": ("auth", "pass", "key"),
    "key of an object, others": ("PGPASSWORD", "session_id", "jwt"),
    "key of an object, more": ("userpass", "salt", "apisecret"),
    "key of an object, weaker": ("passcode", "DATABASE_URL", "dsn"),
}

_HARMLESS_LINES = (
    # names of secrets and keys, as labels and in sentences
    'secret_name="shop-tls"', "secret_name=shop-tls", "secret_namespace=shop", 'secret="elektra-smtp"',
    "secret: shop-tls in namespace shop expires in 3 days", "secret_key=tls.crt", "Secret shop/db-credentials not found",
    "MountVolume.SetUp failed for volume \"token\": secret \"web-token-x7k2p\" not found",
    "imagePullSecrets: registry-credentials is missing", "secretName: wildcard-example-com",
    "externalsecret/shop-db is not ready", "vault path secret/data/prod/db is sealed", "secretRef: shop-db",
    "token_type=bearer", "token_expires_at=2026-11-28T00:00:00Z", "password_age_days=91", "api_key_name=grafana-prod",
    "access_key_age=90d", "credentials_file=/etc/app/credentials.json", "password_policy=strict", "key_id=checkout",
    "certificate_secret=ingress-nginx-tls", "service_account_token_mounted=true", "private_key_path=/etc/ssl/private/x.pem",
    # sentences
    "Authorization: 503 from auth-api for 5 minutes, checkout is affected", "credentials: job queue is stuck since 02:00",
    "TokenRefreshFailures: 40 % of refreshes fail on auth-1", "password expired for user bob", "token bucket limit 5",
    "password: expired for user bob", "Password: authentication failed for user app", "token: expired 3 minutes ago",
    "password authentication failed for user \"app\"", "Basic connectivity check failed", "bearer token missing",
    "secret rotation is overdue by 12 days", "The API key of grafana was revoked by alice", "authorization denied for bob",
    "cookie consent banner is broken on shop", "cookies: 12 set by checkout", "secrets: 3 about to expire",
    "tokens: 512 of 4096 used", "max_tokens=4096", "prompt_tokens: 1532, completion_tokens: 210", "tokens_per_second=41.5",
    "Basic authentication is deprecated on proxy-2", "auth: failed for user bob", "auth=ldap", "auth=oauth2",
    "login failed: invalid password", "reset your password at https://sso.example.com/reset", "pass: 12, fail: 3",
    "password: required", "token=expired", "secret=missing", "Authorization header is missing", "authorization: required",
    "the token was refreshed 3 times in 10 minutes", "passwords must not be shared", "password is wrong for root",
    "Set-Cookie header is missing on checkout", "no credentials: falling back to anonymous", "author: Bob, tokens_used: 5",
    "private key mismatch on lb-2", "public_key: rotated yesterday", "API key: missing from the request of web-3",
    "Token: not yet valid, clock of node-4 is 31 s behind", "secret: not found", "session: closed by peer",
    "pin: 13 is floating on board 2", "key: value pairs expected at line 3", "signature: invalid on package nginx",
    "mot de passe expiré pour bob", "Passwort abgelaufen für bob", "passphrase: none set",
    # hashes, ids, digests
    "commit 3f2a9c1d4e5b6a7f8091a2b3c4d5e6f708192a3b", "deployed 9fceb02 of checkout", "git sha=9fceb02d0ae598e95dc970b74767f19372d61af8",
    "image nginx@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
    "docker-pullable://nginx@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
    "trace_id=4bf92f3577b34da6a3ce929d0e0e4736", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "span 00f067aa0ba902b7 took 3 s", "request_id=7b2f6e4a-9c1d-4e5b-8a7f-8091a2b3c4d5", "run 7b2f6e4a-9c1d-4e5b-8a7f-8091a2b3c4d5 failed",
    "fingerprint=17b2c3d4e5f60001", "etag \"33a64df551425fcc55e4d42a148795d9f25f89d4\"", "md5 d41d8cd98f00b204e9800998ecf8427e",
    "container 4f53cda18c2b exited with 137", "pod checkout-7d9f8b6c5d-x7k2p is not ready", "replicaset web-5b8c7d9f4",
    "instance i-0abcd1234efgh5678 is impaired", "arn:aws:iam::123456789012:role/shop", "vol-049df61146c4d7901 is full",
    "serial 04:9A:F3:11:2C:77:8E:10", "mac 52:54:00:12:34:56 moved", "dedup_key=checkout/latency/eu-1",
    "idempotency_key=order-1234", "cache key: user:1234:profile", "key=user:1234", "partition_key=customer_id",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 is not in the registry",
    "X-Request-Id: 7b2f6e4a9c1d4e5b8a7f8091a2b3c4d5", "correlation-id: 01HF7YAT00M5Z6V8QX9K3T2B1C",
    "ULID 01HF7YAT00M5Z6V8QX9K3T2B1C was seen twice", "order ORD-2026-000123 is stuck", "JIRA OPS-1234",
    # metrics, PromQL, log lines
    'rate(http_requests_total{job="api",code=~"5.."}[5m]) > 0.05', "sum by (secret) (kube_secret_info) > 100",
    'kube_secret_info{secret="shop-tls",namespace="shop"} == 0', "vault_token_count_by_policy > 1000",
    'histogram_quantile(0.99, sum(rate(auth_duration_seconds_bucket[5m])) by (le))', "token_refresh_failures_total=41",
    "x509_cert_not_after{secret_name=\"shop-tls\",secret_key=\"tls.crt\"} - time() < 259200", "login_password_errors_total 12",
    "certmanager_certificate_expiration_timestamp_seconds", "authentication_token_cache_size: 100", "cookie_size_bytes=4096",
    'level=error msg="token refresh failed" attempt=3', "ts=2026-11-27T02:14:00Z caller=auth.go:41 err=\"invalid token\"",
    "ERROR 1045 (28000): Access denied for user 'app'@'10.0.0.7' (using password: YES)", "(using password: NO)",
    "FATAL: password authentication failed for user app", "fatal: could not read Password for 'https://git.example.com'",
    "401 Unauthorized: token is expired by 3m0s", "oauth2: cannot fetch token: 400 Bad Request",
    "error: secrets \"db\" is forbidden: User \"bob\" cannot get resource \"secrets\"", "tls: private key does not match public key",
    "PAM: 3 more authentication failures; user=root", "sshd: Failed password for root from 10.0.0.7 port 4242 ssh2",
    "Accepted publickey for bob from 10.0.0.7 port 4242 ssh2: RSA SHA256:n7u2Wb1k9Qp", "401 on /oauth/token", "POST /api/token 500",
    # URLs and paths
    "https://grafana.example.com/d/abc?orgId=1&from=now-1h", "ssh://git@git.example.com/org/repo.git", "git@git.example.com:org/repo.git",
    "http://example.com:8080/path", "https://example.com/reset-password?user=bob", "postgresql://db.internal:5432/shop is down",
    "redis://cache:6379/0 does not answer", "http://prom.example.com/graph?g0.expr=up%3D%3D0&g0.tab=1", "mailto:ops@example.com",
    "https://wiki.example.com/runbooks/rotate-api-key", "/var/run/secrets/kubernetes.io/serviceaccount/token is missing",
    "/etc/ssl/private/key.pem expires in 3 days", "C:\\secrets\\readme.txt", "s3://backup/tokens/2026-11-27.tar.gz",
    "https://example.com/?token_type=bearer&state=open", "https://h:8443/x?mail=bob@example.com", "amqp://guest@mq:5672/",
    # ordinary alerts
    "Disk /dev/sda1 at 95 %, host=web-1:9100", "ratio 3:2, see http://example.com:8080/path", "CPU of db-2 above 90 % for 10 minutes",
    "Certificate of shop.example.com expires in 3 days", "Replication lag: 42 s on db-3", "docker run -u 1000:1000 -p 80:80 failed",
    "restarted 5 times: OOMKilled", "mysql -P 3306 -h db did not answer", "curl -u is not allowed here", "Backup: 12 GB, 3 h, ok",
    "sk-lb-02 is not reachable", "SK-II 2026", "hf_cache_hits=12", "npm_config_registry=internal", "glsa is no word",
    "SG.eu-west-1 has 3 open ports", "AKIA", "key-value store is read-only", "api_org_name=shop", "apk_update failed on alpine",
    "aps_scheduler job missed", "ya29 is a prefix", "python-3.11.7-slim", "ghp_ tokens are refused", "eyJ is how a JWT begins",
)
"""Nothing in these is secret; each must stay as it is, letter by letter."""

_HARMLESS_LATER = (
    "tokens: 100%", "Authorization: Basic auth failing for 30 % of users", "bearer: alice is on call",
    "private key: /etc/ssl/private/x.pem is missing", "secretsmanager:GetSecretValue denied", "pin: A13", "auth=sha256",
    "To reset the password:\n  - open the portal\n  - click on reset", "secrets:\n- shop-tls\n- db-credentials\nnamespace: shop",
    "imagePullSecrets:\n- name: registry-credentials", "secrets: [shop-tls, db-credentials]", "tokens: [512, 640, 1024]",
    "{\"secrets\": [\"shop-tls\", \"web-cert\"]}", "passwords: 3 expired, 2 locked", "passwords: expired, changed",
    "password:\n  required", "Who knows the password:\nask alice on the bridge", "description: |\n  p99 of checkout is 3 s\nseverity: critical",
    "summary: >-\n  Disk is full\n  on db-1", "password policy:\n  - 12 characters\n  - no words", "hosts: [web-1, web-2], tokens: 3",
    "keys: [alertname, instance]", "key: [user, order]", "api_keys: 3 about to expire", "api_keys: none", "auth: [ldap, oauth2]",
    "sessions: [open, closed]", "secret:\n  name: shop-tls\n  namespace: shop", "credentials:\n  user: bob\n  host: db-1",
    "{\"by\": [\"alertname\", \"secret\"]}", "group_by: ['alertname', 'token']", "the token: see the runbook `rotate-token`",
    "the password is ops@example.com?", "password is up-to-date/valid", "password was reset by bob@example.com", "the token is shop@v2-beta",
    "password: {}", "tokens: []", "passwords: [[redacted], [redacted]]", "tokens (input, output): 512, 128",
)
"""Found by the second look: none of them is held out."""

_HARMLESS_OBJECTS: tuple[JsonValue, ...] = (
    {"secret": "elektra-smtp"}, {"secret_name": "shop-tls", "secret_key": "tls.crt"}, {"tokens": 512}, {"key": "checkout"},
    {"token_type": "Bearer", "expires_in": 3600}, {"secretName": "wildcard-tls"}, {"auth": "ldap"}, {"password_age": 91},
    {"key": "user:1234"}, {"signature": "v4"}, {"author": "Bob", "keyboard": "de"}, {"session": "closed"},
    {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, {"password": None, "token": ""}, {"secret": True},
    {"name": "LOG_LEVEL", "value": "debug"}, {"secret": "not found"}, {"authorization": "required"},
    {"groupKey": '{}:{secret_name="shop-tls"}'}, {"imagePullSecrets": [{"name": "registry-credentials"}]},
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A text or object with one secret in it."""

    shape: str
    value: JsonValue
    secret: str
    held_out: bool

    def shows_in(self, text: str) -> bool:
        """Whether any eight characters of the secret that follow each other are in the text."""
        size = min(8, len(self.secret))
        return any(self.secret[at : at + size] in text for at in range(len(self.secret) - size + 1))


@dataclass(frozen=True, kw_only=True)
class Harmless:
    """A text or object that has no secret in it."""

    value: JsonValue
    held_out: bool


def planted() -> list[Planted]:
    """At least 150 secrets of at least 60 shapes, always the same."""
    return [
        Planted(shape=shape, value=value, secret=secret, held_out=number % 4 == 3 and shape not in _LATER)
        for number, (shape, found) in enumerate(_shapes(random.Random(9)))
        for value, secret in found
    ]


def harmless() -> list[Harmless]:
    """At least 150 texts and objects without a secret."""
    first = [
        Harmless(value=value, held_out=at % 4 == 3) for at, value in enumerate((*_HARMLESS_LINES, *_HARMLESS_OBJECTS))
    ]
    return [*first, *(Harmless(value=value, held_out=False) for value in _HARMLESS_LATER)]


def _shapes(source: random.Random) -> Iterator[tuple[str, list[tuple[JsonValue, str]]]]:
    def made(recipe: str) -> str:
        return _RECIPE.sub(lambda one: "".join(source.choices(_ALPHABETS[one[1]], k=int(one[2]))), recipe)

    for shape, recipes in _TOKENS.items():
        tokens = [made(recipe) for recipe in recipes]
        yield shape, [(frame.format(token), token) for frame, token in zip(_SENTENCES, tokens, strict=True)]
    for shape, templates in _SHAPES.items():
        yield shape, [_filled(template, made) for template in templates]
    for shape, keys in _OBJECTS.items():
        secrets = [made("<S16>") for _ in keys]
        yield shape, [({"host": "web-1", key: secret}, secret) for key, secret in zip(keys, secrets, strict=True)]
    for shape, templates in _LATER.items():
        yield shape, [_filled(template, made) for template in templates]


_HOLE = re.compile(r"(?<!\{)\{([^{}]+)\}(?!\})")


def _filled(template: str, made: Callable[[str], str]) -> tuple[JsonValue, str]:
    hole = _HOLE.search(template)
    if hole is None:
        raise ValueError(f"no secret in {template!r}")
    secret = made(hole[1])
    before, after = template[: hole.start()], template[hole.end() :]
    return f"pay-7: {before}{secret}{after}".replace("{{", "{").replace("}}", "}"), secret
