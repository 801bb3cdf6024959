// Locks on Redis in Node with their defaults, as workers of the benches; see bench/src/crew/mod.rs.
// The first argument is redis-semaphore or redlock, the others are the orders.
'use strict'
const fs = require('fs')
const readline = require('readline')
const Redis = require('ioredis')

const [library, at, key, ...rest] = process.argv.slice(2)
const path = rest.pop()
const [first, workers, ownKeys, hold, away, spread, ttl] = rest.map(Number)
const client = new Redis(at)
const now = () => process.hrtime.bigint()
const sleep = (ms) => (ms > 0 ? new Promise((done) => setTimeout(done, ms)) : undefined)

// Takes a key, and returns what gives it back.
function lockOf (name) {
  if (library === 'redis-semaphore') {
    const { Mutex } = require('redis-semaphore')
    const mutex = new Mutex(client, name, { acquireTimeout: 1e9, lockTimeout: ttl / 1e6 })
    return async () => {
      await mutex.acquire()
      return () => mutex.release()
    }
  }
  const Redlock = require('redlock')
  const redlock = new Redlock([client], { retryCount: -1 })
  return async () => {
    const held = await redlock.lock(name, ttl / 1e6)
    return () => held.unlock()
  }
}

async function worker (number, end) {
  const take = lockOf(ownKeys ? `${key}/${number}` : key)
  const left = (ms) => Math.min(ms, Number(end - now()) / 1e6)
  const notes = []
  await sleep(spread / 1e6 * (number - first) / workers)
  while (now() < end) {
    const asked = now()
    const give = await take()
    const had = now()
    await sleep(left(hold / 1e6))
    const released = now()
    await give()
    notes.push(BigInt(number), asked, had, released)
    await sleep(left(away / 1e6))
  }
  return notes
}

async function main () {
  await (await lockOf(`${key}/warm/${first}`)())()
  console.log('ready')
  const input = readline.createInterface({ input: process.stdin })
  const [start, end] = (await new Promise((done) => input.once('line', done))).split(' ').map(BigInt)
  input.close()
  await sleep(Number(start - now()) / 1e6)
  const all = await Promise.all(Array.from({ length: workers }, (_, i) => worker(first + i, end)))
  fs.writeFileSync(path, Buffer.from(BigUint64Array.from(all.flat()).buffer))
  client.disconnect()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
