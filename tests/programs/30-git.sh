#!/bin/bash
# limit: 300
# git on the mount: clone, commits, branches, gc, fsck; the standby holds a repository that passes fsck too.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
export HOME=$TMP GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.com GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.com
git config --global safe.directory '*'
git config --global init.defaultBranch main
"$TOP/tests/demo/project.sh" "$TMP/origin" 100
(cd "$TMP/origin" && git init -q && git add -A && git commit -qm first && for i in $(seq 20); do
	echo "/* $i */" >>"src/module_$i.c" && git commit -qam "change $i"
done)
check "git clone" git clone -q "file://$TMP/origin" "$A/clone"
check "fsck of the clone" git -C "$A/clone" fsck --full --strict
is "the clone is clean" "$(git -C "$A/clone" status --porcelain | wc -l)" 0
check "commits on the mount" sh -c "cd '$A/clone' && for i in \$(seq 15); do echo \$i >>src/main.c; git commit -qam \"here \$i\" || exit 1; done"
check "a branch, a merge" sh -c "cd '$A/clone' && git checkout -qb side HEAD~5 && echo x >new && git add new && git commit -qm side && git checkout -q main && git merge -q --no-edit side"
check "gc" git -C "$A/clone" gc -q --aggressive
check "fsck after gc" git -C "$A/clone" fsck --full --strict
check "a clone within the mount, with hard links" git clone -q "$A/clone" "$A/second"
check "a worktree" git -C "$A/clone" worktree add -q "$A/tree" side
check "reset and clean" sh -c "cd '$A/second' && git rm -rq src && git reset -q --hard && git clean -fdxq"
trees_equal "after the work" alpha beta
cp -a "$B/clone" "$TMP/from-standby"
check "the standby's repository passes fsck" git -C "$TMP/from-standby" fsck --full --strict
is "and has the same head" "$(git -C "$TMP/from-standby" rev-parse HEAD)" "$(git -C "$A/clone" rev-parse HEAD)"
tap_end
