// Membership of a leaf in a Merkle tree with Pedersen hashes.
//
// Input:  { "leaf": value, "index": position, "path": [sibling of the leaf, sibling one level up, ...] }
// Output: root, leaf, index, height
//
// A node is pedersen(left, right). The path is a witness: the proof says that some path of this height leads from the
// leaf at this index to the root. A submitter who names root, leaf and index as the expected output prefix gets a proof
// about exactly this membership.
%builtins output pedersen range_check

from starkware.cairo.common.cairo_builtins import HashBuiltin
from starkware.cairo.common.hash import hash2
from starkware.cairo.common.math import assert_nn_le

// Far below the size of the field, so that an index has one decomposition into bits.
const MAX_HEIGHT = 64;

func main{output_ptr: felt*, pedersen_ptr: HashBuiltin*, range_check_ptr}() {
    alloc_locals;
    local leaf;
    local index;
    local height;
    local path: felt*;
    %{
        ids.leaf = program_input['leaf']
        ids.index = program_input['index']
        ids.height = len(program_input['path'])
        ids.path = segments.gen_arg(program_input['path'])
    %}
    assert_nn_le(height, MAX_HEIGHT);
    let (root) = climb(node=leaf, index=index, path=path, height=height);

    assert output_ptr[0] = root;
    assert output_ptr[1] = leaf;
    assert output_ptr[2] = index;
    assert output_ptr[3] = height;
    let output_ptr = output_ptr + 4;
    return ();
}

// Returns the root of the tree in which `node` is the `index`-th of its level and the root `height` levels above.
func climb{pedersen_ptr: HashBuiltin*}(node, index, path: felt*, height) -> (root: felt) {
    if (height == 0) {
        // The index has no more bits than the tree has levels.
        assert index = 0;
        return (root=node);
    }
    alloc_locals;
    local is_right = nondet %{ ids.index % 2 %};
    // The hint proposes a bit; these lines make it one, and the last line of the recursion makes it the right one.
    assert is_right * (is_right - 1) = 0;
    local parent_index = (index - is_right) / 2;

    if (is_right == 0) {
        let (parent) = hash2{hash_ptr=pedersen_ptr}(node, path[0]);
        return climb(node=parent, index=parent_index, path=path + 1, height=height - 1);
    } else {
        let (parent) = hash2{hash_ptr=pedersen_ptr}(path[0], node);
        return climb(node=parent, index=parent_index, path=path + 1, height=height - 1);
    }
}
