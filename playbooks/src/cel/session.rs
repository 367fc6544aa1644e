//! Many expressions over the same variables: these are made ready once, and all of it together has a bound.

use cel::context::Context;
use cel::objects::Value as CelValue;
use serde_json::Value;

use super::{EvaluationError, Expression, MAX_COST, Scope, cost, from_json, functions, to_json};

/// Steps that are left for a number of evaluations; see [`MAX_COST`] for what a step is.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// So many steps.
    #[must_use]
    pub fn of(steps: u64) -> Self {
        Self { left: steps }
    }

    fn spend(&mut self, steps: u64) -> Result<(), EvaluationError> {
        self.left = self.left.checked_sub(steps).ok_or(EvaluationError::BudgetSpent)?;
        Ok(())
    }
}

/// Variables that many expressions are evaluated over.
pub struct Session<'a> {
    scope: Scope,
    context: Context<'a>,
}

impl Session<'static> {
    /// With these variables.
    #[must_use]
    pub fn over(scope: Scope) -> Self {
        let mut context = functions();
        for (name, value) in &scope.variables {
            context.add_variable_from_value(*name, value.clone());
        }
        Self { scope, context }
    }
}

impl Session<'_> {
    /// The same with one more variable; what is there already isn't copied.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &Value) -> Session<'_> {
        let value = from_json(value);
        let mut context = self.context.new_inner_scope();
        context.add_variable_from_value(name, value.clone());
        let mut scope = self.scope.clone();
        scope.variables.insert(name, value);
        Session { scope, context }
    }

    /// The value of an expression, in the terms of JSON. What is optional and isn't there is null.
    pub fn evaluate(&self, expression: &Expression, budget: &mut Budget) -> Result<Value, EvaluationError> {
        let value = self.execute(expression, budget)?;
        to_json(&value).ok_or_else(|| EvaluationError::NotJson { source_text: expression.source.clone() })
    }

    /// The value of a condition.
    pub fn is_true(&self, expression: &Expression, budget: &mut Budget) -> Result<bool, EvaluationError> {
        expression.condition(self.execute(expression, budget)?)
    }

    fn execute(&self, expression: &Expression, budget: &mut Budget) -> Result<CelValue, EvaluationError> {
        let steps = cost::with_result(&expression.program, &self.scope);
        if steps > MAX_COST {
            return Err(EvaluationError::TooCostly { source_text: expression.source.clone(), steps });
        }
        budget.spend(steps)?;
        expression.run(&self.context)
    }
}
