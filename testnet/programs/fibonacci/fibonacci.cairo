// The n-th element of a Fibonacci sequence with chosen starting values, in the field of the Cairo machine.
//
// Input:  { "first": F(0), "second": F(1), "n": n }
// Output: first, second, n, F(n)
//
// The three input values come first in the output, so a submitter who names them as the expected output prefix gets a
// proof about exactly this input. Steps: 6 * n + 14.
%builtins output

func main{output_ptr: felt*}() {
    alloc_locals;
    local first;
    local second;
    local n;
    %{
        ids.first = program_input['first']
        ids.second = program_input['second']
        ids.n = program_input['n']
    %}
    assert output_ptr[0] = first;
    assert output_ptr[1] = second;
    assert output_ptr[2] = n;

    let (element) = fibonacci(current=first, next=second, remaining=n);
    assert output_ptr[3] = element;
    let output_ptr = output_ptr + 4;
    return ();
}

// Returns the element that lies `remaining` places after `current`. An input that is no small natural number never
// reaches zero within the step limit of its job.
func fibonacci(current, next, remaining) -> (element: felt) {
    if (remaining == 0) {
        return (element=current);
    }
    return fibonacci(current=next, next=current + next, remaining=remaining - 1);
}
