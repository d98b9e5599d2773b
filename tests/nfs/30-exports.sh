#!/bin/bash
# asan
# Exports from outside: who may mount what and do what there, that nobody gets out of an export or into another one, that handles which nobody gave out are refused
# and counted, and that a reload is in force at once, also for clients that have mounted.
. "$(dirname "$0")/nfs.sh"
export LAB_OPTIONS NC_EXPORT
LAB_OPTIONS=$(
	cat <<-E
		[nfs]
		listen = [::]:2049
		rpcbind = no
		[export all]
		clients = 10.77.0.50
		access = rw
		squash = none
		secure = no
		[export pub]
		path = /pub
		clients = 10.77.0.51
		access = rw
		anonuid = 4000
		anongid = 4001
		secure = no
		[export ro]
		path = /pub/ro
		clients = 10.77.0.51, 10.77.0.52
		squash = all
		anonuid = 5000
		anongid = 5001
		secure = no
		[export ports]
		path = /ports
		clients = 10.77.0.0/24
	E
)
lab_or_die alpha:ext4
nfs_client_up || exit 1
A=$(mnt alpha)
for a in 51 52 53; do ip -n "$ID-client" addr add "10.77.0.$a/24" dev eth0; done
# From now on the client is the one with this address.
be() { ip -n "$ID-client" route replace "$(address alpha)/32" dev eth0 src "10.77.0.$1"; }
# says NAME WANTED EXPORT COMMAND…
says() {
	local name=$1 wanted=$2
	NC_EXPORT=$3
	shift 3
	is "$name" "$(nc alpha "$@" 2>&1)" "$wanted"
}
refused() { status alpha '.nfs | .refused_handles // 0'; }

mkdir -p "$A/pub/ro/d" "$A/pub/sub" "$A/private" "$A/ports"
chmod 777 "$A/pub" "$A/pub/ro"
echo secret >"$A/private/file"
echo public >"$A/pub/file"
echo read >"$A/pub/ro/file"
ln -s ../private "$A/pub/link"
check "the server answers" wait_for 20 nfs_serves alpha

be 50
says "the list of exports" "/ 10.77.0.50
/pub 10.77.0.51
/pub/ro 10.77.0.51 10.77.0.52
/ports 10.77.0.0/24" / exports
says "the whole volume for who is listed" secret / cat private/file
says "a directory below an export can be mounted" secret /private cat file
ALL_PRIVATE=$(NC_EXPORT=/ nc alpha fh private)
be 51
says "others can't mount it" "MOUNT: MNT3ERR_ACCES" / stat ""
says "nor what is below" "MOUNT: MNT3ERR_ACCES" /private stat ""
says "nor by way of ..: refused" "MOUNT: MNT3ERR_ACCES" /pub/../private stat ""
says "nor by a symlink" "MOUNT: MNT3ERR_NOTDIR" /pub/link stat ""
says "what isn't there" "MOUNT: MNT3ERR_NOENT" /pub/none stat ""
says "their export" public /pub cat file
says ".. of its root is its root" public /pub cat ../../file
says "... whose attributes are the root's" "$(NC_EXPORT=/pub nc alpha stat '')" /pub stat ..
is "... and whose number a listing shows as .." "$(NC_EXPORT=/pub nc alpha ls '' | sed -n 's/ .* \.\.$//p')" "$(stat -c %i "$A/pub")"
says ".. below it stays in it" public /pub cat sub/../../file

# -- handles --
NC_OPTIONS="-H $ALL_PRIVATE" says "a handle of another client's export" ACCES / cat file
before=$(refused)
flip() { # HEX BYTE: one bit changed
	printf '%s%02x%s' "${1:0:$((2 * $2))}" $((0x${1:$((2 * $2)):2} ^ 1)) "${1:$((2 * $2 + 2))}"
}
PUB=$(NC_EXPORT=/pub nc alpha fh '')
NC_OPTIONS="-H $PUB" says "a handle that was given out" public / cat file
for byte in 0 1 2 4 8 15 32 39; do
	NC_OPTIONS="-H $(flip "$PUB" $byte)" says "a handle with another byte $byte" BADHANDLE / stat ""
done
NC_OPTIONS="-H $(flip "$PUB" 20)" says "a handle of another volume" STALE / stat ""
NC_OPTIONS="-H 00" says "a handle of one byte" BADHANDLE / stat ""
is "all of them are counted" "$(($(refused) - before))" 10

# -- what is done through an export --
says "a change through a read-only export" ROFS /pub/ro create new 644
says "... is not made through the one above either: a client gets the innermost" ROFS /pub/ro mkdir new 755
says "ACCESS says so" 3 /pub/ro access d 63
NC_OPTIONS="-u 0 -g 0 -G 0" says "root is the anonymous user" "" /pub create by-root 644
is "... its owner" "$(stat -c '%u %g' "$A/pub/by-root")" "4000 4001"
NC_OPTIONS="-u 1000 -g 0" says "a group 0, too" "" /pub create by-user 644
is "... its owner" "$(stat -c '%u %g' "$A/pub/by-user")" "1000 4001"
NC_OPTIONS="-u 0 -g 0" says "and gets root's rights nowhere" ACCES /pub create sub/x 644
chmod 700 "$A/pub/sub"
NC_OPTIONS="-u 0 -g 0" says "... nor to read" ACCES /pub ls sub 4000
be 52
chown 1000 "$A/pub/ro/file"
chmod 600 "$A/pub/ro/file"
NC_OPTIONS="-u 1000 -g 1000" says "all_squash: the owner is nobody" ACCES /pub/ro cat file
chown 5000 "$A/pub/ro/file"
NC_OPTIONS="-u 1000 -g 1000" says "all_squash: everybody is the anonymous user" read /pub/ro cat file
says "and the export above isn't his" "MOUNT: MNT3ERR_ACCES" /pub stat ""

# -- ports --
be 53
is "a client whose port is below 1024" "$(NC_EXPORT=/ports nc alpha stat '' | cut -c1)" d
is "and one whose port isn't" "$(in_client setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all timeout 60 "$NC" "$(address alpha)" /ports stat '' 2>&1)" \
	"MOUNT: MNT3ERR_ACCES"

# -- between exports --
be 51
PUB_RO=$(NC_EXPORT=/pub/ro nc alpha fh '')
is "the same directory has another handle in each export" "$([ "$PUB_RO" = "$(NC_EXPORT=/pub nc alpha fh ro)" ] || echo differs)" differs
NC_OPTIONS="-H $PUB_RO" says "and the rights of that export" ROFS / create x 644
NC_OPTIONS="-H $(NC_EXPORT=/pub nc alpha fh ro)" says "... of the other" "" / create x 644
check "... it was made" test -f "$A/pub/ro/x"

# -- reload --
conf=$TMP/alpha/etc/$VOLUME.conf
NC_OPTIONS="-H $PUB" says "a client that has mounted" public / cat file
sed -i 's/^clients = 10.77.0.51$/clients = 10.77.0.53/' "$conf"
is "reload" "$(tfs alpha reload)" "4 exports in force"
NC_OPTIONS="-H $PUB" says "it isn't listed any more" ACCES / cat file
be 53
NC_OPTIONS="-H $PUB" says "who is now, is" public / cat file
sed -i '/^\[export pub\]/,/^secure/d' "$conf"
is "reload without it" "$(tfs alpha reload)" "3 exports in force"
NC_OPTIONS="-H $PUB" says "the export is gone" STALE / cat file
says "it can't be mounted" "MOUNT: MNT3ERR_ACCES" /pub stat ""
tap_end
