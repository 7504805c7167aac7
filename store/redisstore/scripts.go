package redisstore

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"

	"github.com/redis/rueidis"
)

// script is a Lua script, which the server knows by the hash of its text after it
// has seen it once. rueidis.Lua does the same, but not on a dedicated connection
// or for one key of many in a pipeline.
type script struct{ text, hash string }

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text)) // Redis's choice; it names the script, no more
	return &script{text, hex.EncodeToString(sum[:])}
}

func (x *script) byHash(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return b.Evalsha().Sha1(x.hash).Numkeys(1).Key(key).Arg(args...).Build()
}

func (x *script) whole(b rueidis.Builder, key string, args []string) rueidis.Completed {
	return b.Eval().Script(x.text).Numkeys(1).Key(key).Arg(args...).Build()
}

// run runs the script on each key, in one pipeline. It sends the text where the
// server does not have it: a new one, one that was restarted, or SCRIPT FLUSH.
func (x *script) run(ctx context.Context, c rueidis.Client, keys []string, args ...string) []rueidis.RedisResult {
	cmds := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		cmds[i] = x.byHash(c.B(), key, args)
	}
	results := c.DoMulti(ctx, cmds...)
	for i, res := range results {
		if isNoScript(res) {
			results[i] = c.Do(ctx, x.whole(c.B(), keys[i], args))
		}
	}
	return results
}

// exec runs the script on one key.
func (x *script) exec(ctx context.Context, c rueidis.Client, key string, args ...string) rueidis.RedisResult {
	res := c.Do(ctx, x.byHash(c.B(), key, args))
	if isNoScript(res) {
		res = c.Do(ctx, x.whole(c.B(), key, args))
	}
	return res
}

func isNoScript(res rueidis.RedisResult) bool {
	e, ok := rueidis.IsRedisErr(res.Error())
	return ok && e.IsNoScript()
}

// Answers of the scripts about one record.
const (
	done int64 = iota
	notFound
	conflict
	corrupt
)

// Each script is one atomic step on one key, so that it runs in a cluster. Lua's
// numbers are doubles: versions are compared as bytes, and times have 48 bits,
// which doubles hold exactly. The longest part that a script needs, up to the
// owner's end, is 300 bytes.
const prelude = `
local function ms(s, i)
	local a, b, c, d, e, f = string.byte(s, i, i + 5)
	return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end
local function readable(v)
	return #v >= 45 and string.byte(v, 1) == 1 and #v >= 45 + string.byte(v, 45)
end
local function at(t) return string.format('%.0f', t) end
`

var (
	// create stores ARGV[2] until the time ARGV[3], unless a record is there that
	// is live at the time ARGV[1].
	createScript = newScript(prelude + `
local v = redis.call('GETRANGE', KEYS[1], 0, 299)
if v ~= '' and (not readable(v) or ms(v, 11) > tonumber(ARGV[1])) then return 2 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 0
`)

	// replace stores ARGV[3] until the time ARGV[4], if the record is live at ARGV[1]
	// and has the version ARGV[2]. ARGV[5] is where ARGV[3]'s owner ends, and ARGV[6]
	// how long a key outlives its record, in milliseconds.
	//
	// What stays in the life of a key is nearly always the same in ARGV[3], and the
	// deadline as well: then it is stored as it is. This path is short, for Lua makes
	// half of what a write costs the server.
	replaceScript = newScript(`
local v = redis.call('GETRANGE', KEYS[1], 0, ARGV[5] - 1)
if v == '' then return 1 end
if #v < 45 or string.byte(v, 1) ~= 1 then return 3 end
local a, b, c, d, e, f = string.byte(v, 11, 16)
if ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f <= tonumber(ARGV[1]) then return 1 end
if string.sub(v, 3, 10) ~= ARGV[2] then return 2 end
if string.sub(v, 17) == string.sub(ARGV[3], 17, ARGV[5]) then
	redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[4])
	return 0
end
` + prelude + `
v = redis.call('GETRANGE', KEYS[1], 0, 299)
if not readable(v) then return 3 end
local head, expires = string.sub(ARGV[3], 1, 22), ms(ARGV[3], 11)
if ms(v, 17) < ms(head, 17) then
	local deadline = string.sub(v, 17, 22)
	if ms(v, 17) < expires then
		head, expires = string.sub(head, 1, 10) .. deadline .. deadline, ms(v, 17)
	else
		head = string.sub(head, 1, 16) .. deadline
	end
end
redis.call('SET', KEYS[1], head .. string.sub(v, 23, 45 + string.byte(v, 45)) .. string.sub(ARGV[3], ARGV[5] + 1),
	'PXAT', at(expires + ARGV[6]))
return 0
`)

	// touch moves the expiry to ARGV[2], but never back and not past the deadline.
	// It returns the owner and the deadline as well, for the index.
	touchScript = newScript(prelude + `
local v = redis.call('GETRANGE', KEYS[1], 0, 299)
if v == '' then return {1} end
if not readable(v) then return {3} end
if ms(v, 11) <= tonumber(ARGV[1]) or string.byte(v, 2) % 2 == 1 then return {1} end
local expires = ARGV[2]
if ms(expires, 1) > ms(v, 17) then expires = string.sub(v, 17, 22) end
if ms(expires, 1) > ms(v, 11) then
	redis.call('SETRANGE', KEYS[1], 10, expires)
	redis.call('PEXPIREAT', KEYS[1], at(ms(expires, 1) + ARGV[3]))
end
return {0, string.sub(v, 46, 45 + string.byte(v, 45)), string.sub(v, 17, 22)}
`)

	// delete removes whatever is there, and returns whether that was alive at
	// ARGV[1], and its owner.
	deleteScript = newScript(prelude + `
local v = redis.pcall('GETRANGE', KEYS[1], 0, 299)
if redis.call('DEL', KEYS[1]) == 0 then return {0, ''} end
if type(v) == 'table' or not readable(v) then return {1, ''} end
return {ms(v, 11) > tonumber(ARGV[1]) and 1 or 0, string.sub(v, 46, 45 + string.byte(v, 45))}
`)

	// deleteOwned removes the record if it is of the owner ARGV[2] and its handle
	// is not one of those that follow. It returns what it found. A record of another
	// owner has its place in the index with this one's, if their hashes begin alike.
	deleteOwnedScript = newScript(prelude + `
local v = redis.pcall('GETRANGE', KEYS[1], 0, 299)
if v == '' then return 0 end
if type(v) == 'table' or not readable(v) then return 1 end
if string.sub(v, 46, 45 + string.byte(v, 45)) ~= ARGV[2] then return 1 end
local handle = string.sub(v, 29, 44)
for i = 3, #ARGV do
	if ARGV[i] == handle then return 1 end
end
redis.call('DEL', KEYS[1])
if ms(v, 11) > tonumber(ARGV[1]) and string.byte(v, 2) % 2 == 0 then return 3 end
return 2
`)

	// enter puts the member ARGV[2] with the score ARGV[1] into a set of the index.
	// If ARGV[3] is 1, one with the same deadline stays. Otherwise the score is
	// another than before, for forget to tell the two apart. Now and then, by the
	// random number ARGV[5], some entries in a row are looked at, and those go whose
	// deadline is not after ARGV[4]. The set lasts another ARGV[6] milliseconds at
	// least, which is until ARGV[7].
	enterScript = newScript(fmt.Sprintf("local every, sample, made, deadlines = %d, %d, %d, %d", sampleEvery, sample, 1<<madeBits, 1<<deadlineBits) + `
if ARGV[5] % every == 0 then
	local n = redis.call('ZCARD', KEYS[1])
	local from = math.floor(ARGV[5] / every) % math.max(n - sample + 1, 1)
	local some, dead = redis.call('ZRANGE', KEYS[1], from, from + sample - 1, 'WITHSCORES'), {}
	for i = 2, #some, 2 do
		if math.floor(some[i] / made) % deadlines <= tonumber(ARGV[4]) then dead[#dead + 1] = some[i - 1] end
	end
	if #dead > 0 then redis.call('ZREM', KEYS[1], unpack(dead)) end
end
local score, before = tonumber(ARGV[1]), tonumber(redis.call('ZSCORE', KEYS[1], ARGV[2]) or -1)
if ARGV[3] == '1' and math.floor(before / made) == math.floor(score / made) then return 0 end
if before == score then score = score + 1 - score % 2 * 2 end
redis.call('ZADD', KEYS[1], score, ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then redis.call('PEXPIREAT', KEYS[1], ARGV[7]) end
return 0
`)

	// forget takes pairs of a score and a member out of a set of the index, but for
	// those that have been entered again since.
	forgetScript = newScript(`
for i = 1, #ARGV, 2 do
	local score = redis.call('ZSCORE', KEYS[1], ARGV[i + 1])
	if score and tonumber(score) == tonumber(ARGV[i]) then redis.call('ZREM', KEYS[1], ARGV[i + 1]) end
end
return 0
`)
)

// What deleteOwnedScript found.
const (
	foundNothing = iota
	foundKept    // a record that stays, or one of another owner
	foundOther   // a marker or an expired record; it is deleted
	foundSession // a live session; it is deleted
)
