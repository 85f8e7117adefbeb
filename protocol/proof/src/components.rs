//! The components of the Cairo AIR as a list: which are claimed, how large, and what this policy's table allows.
//!
//! The list is written against cairo-air's claim types field by field, without `..`: a component that a later version adds
//! does not compile until somebody says here what is allowed for it.

use cairo_air::claims::{CairoClaim, CairoInteractionClaim};
use cairo_air::components;
use stwo::core::fields::qm31::SecureField;

use crate::policy::{LOG_SIZE_MAX, LOG_SIZE_MIN, LOG_SIZE_SEQUENCE_MAX};

/// What bounds a component's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As many rows as the trace needs.
    Sized,
    /// The same, but its rows are numbered by a preprocessed sequence column.
    Sequence,
    /// A table of fixed size.
    Table,
    /// Needs preprocessed columns that the policy's variant lacks, or a builtin that its layout lacks.
    Absent,
}

/// One component in claim and interaction claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Component {
    /// Name of the field in both claims.
    pub name: &'static str,
    /// What bounds its size.
    pub kind: Kind,
    /// Log2 of its rows, when it is claimed.
    pub log_size: Option<u32>,
    /// Its claimed lookup sum, when there is one.
    pub claimed_sum: Option<SecureField>,
}

impl Component {
    /// Largest log2 of rows that the policy allows; `None` when the component may not be claimed at all.
    pub(crate) fn log_size_max(&self) -> Option<u32> {
        match self.kind {
            Kind::Sized => Some(LOG_SIZE_MAX),
            Kind::Sequence | Kind::Table => Some(LOG_SIZE_SEQUENCE_MAX),
            Kind::Absent => None,
        }
    }

    /// Whether the claimed size, if any, is within the policy.
    pub(crate) fn size_allowed(&self) -> bool {
        match (self.log_size, self.log_size_max()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(size), Some(max)) => (LOG_SIZE_MIN..=max).contains(&size),
        }
    }
}

macro_rules! log_size {
    (Table, $name:ident, $claim:expr) => {
        $claim.as_ref().map(|_| components::$name::LOG_SIZE)
    };
    ($kind:ident, $name:ident, $claim:expr) => {
        $claim.as_ref().map(|c| c.log_size)
    };
}

macro_rules! component_list {
    ($($kind:ident $form:ident $name:ident;)*) => {
        /// Every component but the tables of large memory values, in no particular order.
        pub(crate) fn list(claim: &CairoClaim, interaction: &CairoInteractionClaim) -> Vec<Component> {
            // Both patterns are exhaustive on purpose.
            let CairoClaim { public_data: _, memory_id_to_big: _, $($name: _),* } = claim;
            let CairoInteractionClaim { memory_id_to_big: _, $($name: _),* } = interaction;
            vec![$(Component {
                name: stringify!($name),
                kind: Kind::$kind,
                log_size: log_size!($form, $name, claim.$name),
                claimed_sum: interaction.$name.as_ref().map(|c| c.claimed_sum),
            }),*]
        }
    };
}

component_list! {
    Sized Free add_opcode;
    Sized Free add_opcode_small;
    Sized Free add_ap_opcode;
    Sized Free assert_eq_opcode;
    Sized Free assert_eq_opcode_imm;
    Sized Free assert_eq_opcode_double_deref;
    Sequence Free blake_compress_opcode;
    Sized Free call_opcode_abs;
    Sized Free call_opcode_rel_imm;
    Sized Free generic_opcode;
    Sized Free jnz_opcode_non_taken;
    Sized Free jnz_opcode_taken;
    Sized Free jump_opcode_abs;
    Sized Free jump_opcode_double_deref;
    Sized Free jump_opcode_rel;
    Sized Free jump_opcode_rel_imm;
    Sized Free mul_opcode;
    Sized Free mul_opcode_small;
    Sized Free qm_31_add_mul_opcode;
    Sized Free ret_opcode;
    Sized Free verify_instruction;
    Sized Free blake_round;
    Sized Free blake_g;
    Table Table blake_round_sigma;
    Sized Free triple_xor_32;
    Table Table verify_bitwise_xor_12;
    Sequence Free add_mod_builtin;
    Sequence Free bitwise_builtin;
    Sequence Free mul_mod_builtin;
    Absent Free pedersen_builtin;
    Sequence Free pedersen_builtin_narrow_windows;
    Sequence Free poseidon_builtin;
    Sequence Free range_check96_builtin;
    Sequence Free range_check_builtin;
    Absent Free ec_op_builtin;
    Absent Free partial_ec_mul_generic;
    Absent Free pedersen_aggregator_window_bits_18;
    Absent Free partial_ec_mul_window_bits_18;
    Absent Table pedersen_points_table_window_bits_18;
    Sequence Free pedersen_aggregator_window_bits_9;
    Sized Free partial_ec_mul_window_bits_9;
    Table Table pedersen_points_table_window_bits_9;
    Sequence Free poseidon_aggregator;
    Sized Free poseidon_3_partial_rounds_chain;
    Sized Free poseidon_full_round_chain;
    Sized Free cube_252;
    Table Table poseidon_round_keys;
    Sized Free range_check_252_width_27;
    Sequence Free memory_address_to_id;
    Sequence Free memory_id_to_small;
    Table Table range_check_6;
    Table Table range_check_8;
    Table Table range_check_11;
    Table Table range_check_12;
    Table Table range_check_18;
    Table Table range_check_20;
    Table Table range_check_4_3;
    Table Table range_check_4_4;
    Table Table range_check_9_9;
    Table Table range_check_7_2_5;
    Table Table range_check_3_6_6_3;
    Table Table range_check_4_4_4_4;
    Table Table range_check_3_3_3_3_3;
    Table Table verify_bitwise_xor_4;
    Table Table verify_bitwise_xor_7;
    Table Table verify_bitwise_xor_8;
    Table Table verify_bitwise_xor_9;
}
