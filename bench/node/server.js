// An app on express-session and connect-redis, with the pages that package bench
// asks for. It prints its address and ends with its standard input.
//
//   node server.js redis://127.0.0.1:6379 SECONDS    the second is the idle timeout
import { RedisStore } from 'connect-redis'
import express from 'express'
import session from 'express-session'
import { createClient } from 'redis'

const [url, ttl] = process.argv.slice(2)
const client = createClient({ url })
await client.connect()

const app = express()

// Before the sessions: it is asked between measurements.
app.get('/cpu', (req, res) => {
  const used = process.cpuUsage()
  res.send(String(used.user + used.system))
})

// As the two READMEs recommend for a store that has touch, which extends the
// idle timeout of a session with each request.
app.use(
  session({
    store: new RedisStore({ client, ttl: Number(ttl) }),
    secret: 'bench',
    resave: false,
    saveUninitialized: false,
  }),
)

app.get('/signin', (req, res, next) => {
  req.session.regenerate((err) => {
    if (err) return next(err)
    req.session.user = req.query.user
    req.session.name = req.query.name
    req.session.cart = JSON.parse(req.query.cart)
    res.send('ok')
  })
})

app.use((req, res, next) => {
  if (!req.session.user) return res.sendStatus(401)
  next()
})

app.get('/read', (req, res) => {
  res.send(`${req.session.user} ${req.session.name}`)
})

app.get('/all', (req, res) => {
  res.send(`${req.session.user} ${req.session.name} ${req.session.cart[0].quantity}`)
})

app.get('/write', (req, res) => {
  req.session.cart[0].quantity++
  res.send('ok')
})

const server = app.listen(0, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`)
})
process.stdin.on('end', () => process.exit()).resume()
