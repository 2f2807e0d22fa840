// Signs and sends requests with oauth-1.0a, as it comes. The orders are those of oauth_requests.py.
const OAuth = require('oauth-1.0a')
const crypto = require('crypto')
const readline = require('readline')

const HMACS = { 'HMAC-SHA256': 'sha256', 'HMAC-SHA1': 'sha1' }

function prepare(order) {
  const method = order.signature_method || 'HMAC-SHA256'
  const oauth = new OAuth({
    consumer: { key: order.key, secret: order.secret },
    signature_method: method,
    hash_function: (text, key) => crypto.createHmac(HMACS[method], key).update(text).digest('base64'),
    body_hash_function: (body) =>
      crypto.createHash(order.sha256 ? 'sha256' : 'sha1').update(body).digest('base64'),
  })
  if (order.timestamp) oauth.getTimeStamp = () => order.timestamp
  if (order.nonce) oauth.getNonce = () => order.nonce
  const { method: verb, url } = order
  const body = order.body === undefined ? undefined : JSON.stringify(order.body)
  const request = { url, method: verb }
  if (body !== undefined && !order.unhashed) Object.assign(request, { data: body, includeBodyHash: true })
  const headers = oauth.toHeader(oauth.authorize(request))
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  const tamper = order.tamper || {}
  return [tamper.url || url, { method: verb, headers, body: tamper.body || body }]
}

async function main() {
  let request
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line)
    if (!order.again) request = prepare(order)
    const answer = await fetch(...request)
    console.log(JSON.stringify({ status: answer.status, body: await answer.json() }))
  }
}

main()
