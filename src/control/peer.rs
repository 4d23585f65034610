//! Who may ask. PURE.
//!
//! The kernel already lets only the owner and the group of the socket connect (0660). The
//! credentials are checked all the same, so that a mode changed by hand opens nothing.
//! A peer shows its first group only, so membership in ours is looked up in the account
//! files, by which an administrator grants it (`usermod -aG fieldgate mara`).

/// User and group as the kernel states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// `passwd` and `group` are the texts of the account files.
pub fn may_ask(peer: Identity, own: Identity, passwd: &str, group: &str) -> bool {
    peer.uid == 0 || peer.uid == own.uid || peer.gid == own.gid || is_member(peer.uid, own.gid, passwd, group)
}

fn is_member(uid: u32, gid: u32, passwd: &str, group: &str) -> bool {
    // name:password:uid:gid:… and name:password:gid:member,member
    let Some(name) = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    }) else {
        return false;
    };
    group.lines().any(|line| {
        let mut fields = line.split(':').skip(2);
        fields.next().is_some_and(|g| g.parse() == Ok(gid))
            && fields.next().is_some_and(|members| members.split(',').any(|member| member == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nfieldgate:x:990:990::/:/sbin/nologin\n\
        mara:x:1000:1000:Mara:/home/mara:/bin/sh\nolaf:x:1001:1001::/home/olaf:/bin/sh\nbroken\n";
    const GROUP: &str =
        "root:x:0:\nfieldgate:x:990:mara,ines\nmara:x:1000:\ndialout:x:20:olaf,fieldgate\nbad\n";

    #[test]
    fn root_the_agent_itself_and_its_group_may_ask() {
        let check = |uid, gid, expected| {
            let own = Identity { uid: 990, gid: 990 };
            assert_eq!(may_ask(Identity { uid, gid }, own, PASSWD, GROUP), expected, "{uid}:{gid}");
        };
        check(0, 0, true);
        check(990, 990, true);
        // First group, as after `sg fieldgate`.
        check(1001, 990, true);
        // Listed as a member.
        check(1000, 1000, true);
        // In another group only; unknown to the account files.
        check(1001, 1001, false);
        check(1001, 20, false);
        check(4000, 4000, false);
    }
}
